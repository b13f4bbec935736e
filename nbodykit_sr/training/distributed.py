"""Ranks and their device: torch.distributed, whoever started them."""

from dataclasses import dataclass

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes
    ----------
    device : torch.device
    rank, size : int
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    def wrap(self, network):
        """`network` with its gradients averaged over the ranks on backward."""
        if self.size == 1:
            return network
        ids = None if self.device.type == "cpu" else [self.device.index]
        return DistributedDataParallel(network, device_ids=ids)

    def mean(self, values):
        """Mean over ranks of a dict of scalar tensors, as floats; the same on all."""
        stacked = torch.stack([v.detach().to(torch.float64) for v in values.values()])
        if self.size > 1:
            torch.distributed.all_reduce(stacked)
        return dict(zip(values, (stacked / self.size).tolist(), strict=True))


def choose_device(name, local_rank=0):
    """The device called "auto", "cpu" or "cuda", a GPU for each rank of a host.

    Raises
    ------
    InputError
        If "cuda" is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError('device is "cuda" but torch finds no GPU: set device = "cpu"')
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def join(device, rank, size, address):
    """Join `size` processes that meet at `address` ("tcp://host:port") into `Ranks`."""
    if size > 1:
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=address,
            rank=rank,
            world_size=size,
        )
    return Ranks(device, rank, size)


def leave(ranks):
    """End the process group."""
    if ranks.size > 1:
        torch.distributed.destroy_process_group()
