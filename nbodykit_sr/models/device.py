"""Choice of the GPU or CPU cores that a rank computes on."""

import logging
import os

import torch

from ..errors import InputError

logger = logging.getLogger(__name__)


def choose_device(name, local_rank=0, local_size=1) -> torch.device:
    """The torch device of a rank, and its share of the node's cores.

    GPUs are dealt out in turn to the ranks of a node, of which this is `local_rank` of `local_size`. "auto"
    takes the GPU where there is one.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {str(name)!r}: auto, cpu or cuda is needed")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda but no GPU is to be seen here: choose cpu or auto")
    threads = share_cores(local_size)
    if name == "cpu" or not torch.cuda.is_available():
        logger.info("%d ranks on this node, %d threads each, on the CPU", local_size, threads)
        return torch.device("cpu")
    gpus = torch.cuda.device_count()
    device = torch.device("cuda", local_rank % gpus)
    torch.cuda.set_device(device)
    logger.info(
        "%d ranks on this node share %d GPUs (%s)",
        local_size,
        gpus,
        torch.cuda.get_device_name(device),
    )
    return device


def computes_bfloat16(device) -> bool:
    """Does a device have instructions for bfloat16, rather than compute it by way of float32?"""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def share_cores(local_size) -> int:
    """Set and return this rank's number of threads; OMP_NUM_THREADS has the last word."""
    if "OMP_NUM_THREADS" not in os.environ:
        mine = len(os.sched_getaffinity(0))
        # a launcher that binds its ranks has shared the cores already
        bound = mine < (os.cpu_count() or 1)
        torch.set_num_threads(mine if bound else max(1, mine // local_size))
    return torch.get_num_threads()
