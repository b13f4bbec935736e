"""Estimates of the memory that a training step takes."""

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from .configuration import Configuration

# Adam keeps two numbers a weight, besides the weight and its gradient; an average one more
BYTES_PER_WEIGHT = 20
# What passes through beside what autograd keeps: gradients, buffers of convolutions, samples
OVERHEAD = 1.35


def step_bytes(system, batch) -> float:
    """Bytes that a training step of `system` takes with `batch` samples on a rank, roughly.

    The networks are run on the "meta" device, where tensors have shapes but no content.
    """
    sample = system.sample(np.random.default_rng(0))
    with torch.device("meta"):
        generator, critic = system.networks()
    meta = {
        name: torch.zeros((batch, *np.shape(value)), device="meta")
        for name, value in sample.items()
    }
    # the generator reads the values of these
    read = {
        name: torch.from_numpy(np.repeat(sample[name], batch))
        for name in ("noise", "a")
        if name in sample
    }
    stages = system.configuration.stage
    adversarial = any(stage.adversarial != "none" for stage in stages)
    members = max(system.objective.members(stage.weights) for stage in stages)
    meta = system.prepare(meta)
    made, saved = _saved_bytes(lambda: system.generate(generator, {**meta, **read}, members))
    most = saved
    if adversarial:
        fields = system.critic_fields(meta, made[:batch])
        # the gradient penalty with its second graph: more than real and fake in one pass
        most += 3 * _saved_bytes(lambda: critic(fields))[1]
    weights = sum(p.numel() for network in (generator, critic) for p in network.parameters())
    return OVERHEAD * most + BYTES_PER_WEIGHT * weights


def what_fits(system, ranks) -> str:
    """Advice on what to lower, and to what, for a step to fit in the device's memory."""
    configuration, there = system.configuration, device_memory(ranks.device)
    share = configuration.batch // ranks.size
    while share > 1:
        share //= 2
        if step_bytes(system, share) < there:
            return f"lower batch from {configuration.batch} to {share * ranks.size}"
    for words, smaller in system.smaller():
        if step_bytes(type(system)(smaller), 1) < there:
            batch = f", with batch = {ranks.size}" if configuration.batch > ranks.size else ""
            return f"lower {words}{batch}"
    return "nothing smaller of this kind fits either: use a device with more memory"


def device_memory(device) -> int:
    """Memory of a GPU, or of this host, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def smaller_settings(configuration, settings) -> Iterator[tuple[str, Configuration]]:
    """Configurations with single settings lowered, and what was: (words, configuration).

    Parameters
    ----------
    settings : list of (table, name, values)
        Values to try, the largest first.
    """
    for table, name, values in settings:
        now = getattr(configuration, table)
        for value in values:
            words = f"{table}.{name} from {getattr(now, name)} to {value}"
            yield words, replace(configuration, **{table: replace(now, **{name: value})})


def _saved_bytes(compute):
    """What `compute` returns, and the bytes that autograd keeps for its backward pass."""
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[id(storage)] = (storage, storage.nbytes())  # kept, so that no id comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    return result, sum(size for _, size in sizes.values())
