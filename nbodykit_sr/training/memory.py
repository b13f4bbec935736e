"""Estimates of the memory that a training step takes."""

import os
from pathlib import Path

import numpy as np
import torch

# A weight, its gradient, two numbers of Adam's, and the averaged weight
BYTES_PER_WEIGHT = 20
# All memory over what autograd keeps: gradients, buffers of convolutions and samples come on top
OVERHEAD = 1.35
LIMIT = Path("/sys/fs/cgroup/memory.max")
ADVICE = "lower batch or sample.crop (sample.size of the density emulator)"


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
    # the generator draws from these
    seeds = torch.from_numpy(np.repeat(sample["noise"], batch))
    stages = system.configuration.stage
    adversarial = any(stage.adversarial != "none" for stage in stages)
    members = max(system.objective.members(stage.weights) for stage in stages)
    meta = system.prepare(meta)
    made, saved = _saved_bytes(
        lambda: system.generate(generator, {**meta, "noise": seeds}, members)
    )
    most = saved
    if adversarial:
        fields = system.critic_fields(meta, made[:batch])
        # the gradient penalty with its second graph: more than real and fake in one pass
        most += 3 * _saved_bytes(lambda: critic(fields))[1]
    weights = sum(p.numel() for network in (generator, critic) for p in network.parameters())
    return OVERHEAD * most + BYTES_PER_WEIGHT * weights


def device_memory(device) -> int:
    """Memory of a GPU, or of this host within the limit of its control group, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = LIMIT.read_text().strip() if LIMIT.exists() else "max"
    return there if limit == "max" else min(there, int(limit))


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
