"""Ranks and their device: torch.distributed, whoever started them."""

import gc
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel


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

    def wrap(self, network) -> torch.nn.Module:
        """`network` with its gradients averaged over the ranks on backward."""
        if self.size == 1:
            return network
        # DDP notes that 1^3 kernels have strides of two kinds, which is all the same
        warnings.filterwarnings("ignore", "Grad strides do not match")
        ids = None if self.device.type == "cpu" else [self.device.index]
        return DistributedDataParallel(network, device_ids=ids)

    def local_gradients(self, network) -> AbstractContextManager:
        """Where gradients of a wrapped network stay on the rank until the next backward pass."""
        return nullcontext() if self.size == 1 else network.no_sync()

    def any(self, condition) -> bool:
        """Whether `condition` is true on any rank."""
        return self.mean({"": torch.tensor(float(bool(condition)), device=self.device)})[""] > 0

    def mean(self, values) -> dict[str, float]:
        """Mean over ranks of a dict of scalar tensors, as floats; the same on all."""
        stacked = torch.stack([v.detach().to(torch.float64) for v in values.values()])
        if self.size > 1:
            torch.distributed.all_reduce(stacked)
        return dict(zip(values, (stacked / self.size).tolist(), strict=True))


def join(device, rank, size, address) -> Ranks:
    """Join `size` processes that meet at `address` ("tcp://host:port") into `Ranks`."""
    if size > 1:
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=address,
            rank=rank,
            world_size=size,
        )
    return Ranks(device, rank, size)


def leave(ranks) -> None:
    """End the process group, once what `Ranks.wrap` gave is let go of.

    A wrapped network that outlives the group ends it when it is freed: it then holds Python's lock
    while it waits for threads that may need that lock to free their last tensor, a deadlock.
    """
    if ranks.size > 1:
        gc.collect()  # wrapped networks refer to themselves
        torch.distributed.destroy_process_group()
