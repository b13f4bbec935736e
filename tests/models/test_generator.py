"""The generator and its options: against the published one, their geometry, fast and cut."""

from functools import partial

import numpy as np
import pytest
import torch

from nbodykit_sr import SRCatalog, open_snapshot
from nbodykit_sr.models.blocks import trim
from nbodykit_sr.models.card import ModelCard, load_model, save_model
from nbodykit_sr.models.fused import fuse
from nbodykit_sr.models.generator import (
    OUTPUT_TRIM,
    Generator,
    layer_shapes,
    standard_noise,
)
from nbodykit_sr.models.upsampling import (
    CORNERS,
    FINE,
    SMALLEST_CELL,
    combine,
    deformation,
    log_size,
)
from nbodykit_sr.training.augmentation import ELEMENTS, transform

# Rounding of float32, of the largest value: instruction sets sum in different orders, up to 2e-6 apart;
# a fault in the mathematics is of 1e-3 and more
ROUNDING = 1e-5
SIZE = dict(channels=6, factor=8, chan_base=32, chan_min=8)
# Options that were and are in use
OPTIONS = {
    "published": {},
    "convex": dict(convex=2, spacing=0.3),
    "gated": dict(convex=3, spacing=0.3, gated=True),
    "phases": dict(convex=3, gated=True, sharp=True, phases=True, context=(1, 2), refined=2),
}
OPTIONS["virial"] = dict(OPTIONS["phases"], virial=True)


def randomised(generator):
    """With random noise amplitudes and mixing, as training makes them."""
    torch.manual_seed(3)
    with torch.no_grad():
        heads = ("mix", "deform", "gate.", "sharp", "std", "scatter", "gather")
        for name, parameter in generator.named_parameters():
            if any(part in name for part in heads):
                parameter.normal_(0, 0.5 if "mix" in name or "std" in name else 0.1)
    return generator.eval().requires_grad_(False)


def chunk(generator, *shape):
    """Inputs for a chunk of `shape` LR sites."""
    torch.manual_seed(4)
    x = torch.randn(1, 6, *(n + 2 * generator.padding for n in shape))
    psi = [torch.randn(1, 3, *sides) / 5 for sides in layer_shapes(generator.octaves, shape)]
    return x, standard_noise(generator, x), psi


@pytest.mark.parametrize("options", [dict(convex=1), dict(convex=3, gated=True, sharp=True)])
def test_it_starts_as_the_published_generator(options):
    published = randomised(Generator(**SIZE))
    convex = Generator(**SIZE, spacing=0.4, **options)
    convex.load_state_dict(published.state_dict(), strict=False)
    inputs = chunk(published, 1, 3, 2)
    difference = convex(*inputs) - published(*inputs)
    assert difference.abs().max() < ROUNDING * published(*inputs).abs().max()


@pytest.mark.parametrize("name", OPTIONS)
def test_a_chunk_is_that_part_of_the_whole(name):
    generator = randomised(Generator(**SIZE, **OPTIONS[name]))
    x, noise, psi = chunk(generator, 3, 2, 2)
    whole = generator(x, noise, psi)
    assert whole.shape[2:] == (30, 22, 22)
    noise = [f[:, :, r:] for f, (r, _) in zip(noise, generator.noise_layers)]
    psi = [f[:, :, r:] for f, (r, _) in zip(psi, generator.octaves)]
    part = generator(x[:, :, 1:], noise, psi)
    difference = trim(part - whole[:, :, 8:], OUTPUT_TRIM)
    assert difference.abs().max() < ROUNDING * whole.abs().max()


@pytest.mark.parametrize("name", ["phases", "virial"])
def test_its_first_levels_alone(name):
    generator = randomised(Generator(**SIZE, **OPTIONS[name]))
    x, noise, psi = chunk(generator, 2, 2, 2)
    levels = generator(x, noise, psi, every_level=True)
    for number, factor in enumerate((2, 4)):
        first = generator.coarser(factor)
        inputs = x, noise[: 2 * number + 2], psi[: number + 1]
        assert first.padding == generator.padding and first.factor == factor
        torch.testing.assert_close(first(*inputs), levels[number], atol=0, rtol=0)
        difference = fuse(first)(*inputs) - levels[number]
        assert difference.abs().max() < ROUNDING * levels[number].abs().max()
        assert Generator(**first.arguments).arguments == first.arguments


@pytest.mark.parametrize("tau", [1e-3, 1.0, 1e3])
def test_sharpness_goes_from_the_centroid_to_the_nearest(tau):
    y = torch.randn(1, 3, 4, 4, 4)
    made = combine(trim(y, 1), torch.zeros(1, 8, 2, 2, 2), 1.0, torch.full((1, 1, 2, 2, 2), tau))
    position = made + FINE.T.reshape(1, 3, 2, 2, 2)
    around = y[:, :, 1:3, 1:3, 1:3] + CORNERS.T.reshape(1, 3, 2, 2, 2)
    wanted = {1e-3: around.mean((2, 3, 4), keepdim=True).expand_as(around), 1e3: around}
    if tau in wanted:
        torch.testing.assert_close(position, wanted[tau], atol=0.02, rtol=0)
    else:
        torch.testing.assert_close(made, combine(trim(y, 1), torch.zeros(1, 8, 2, 2, 2), 1.0))


def test_particles_may_join_any_neighbour():
    """With all weight on one corner each fine particle lies on that coarse one and moves with it."""
    spacing, y = 0.3, torch.randn(1, 6, 5, 5, 5)
    for corner in range(len(CORNERS)):
        logits = torch.zeros(1, 8, 4, 4, 4)
        logits[:, corner] = 100
        out = combine(trim(y, 1), logits, spacing)
        i, j, k = (CORNERS[corner].int() + 1).tolist()
        joined = y[:, :, i : i + 2, j : j + 2, k : k + 2]
        joined = joined.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
        apart = (CORNERS[corner] - FINE).T.view(3, 1, 2, 1, 2, 1, 2).expand(3, 2, 2, 2, 2, 2, 2)
        apart = apart.reshape(3, 4, 4, 4) * spacing
        torch.testing.assert_close(out[:, :3], joined[:, :3] + apart)
        torch.testing.assert_close(out[:, 3:], joined[:, 3:])


def test_positions_stay_between_the_neighbours():
    """Whatever the weights, a particle lies in the bounding box of the particles around it."""
    spacing, y = 0.5, torch.randn(1, 3, 6, 6, 6)
    out = combine(trim(y, 1), 3 * torch.randn(1, 8, 6, 6, 6), spacing)
    site = torch.arange(6) * spacing
    position = y + torch.stack(torch.meshgrid(site, site, site, indexing="ij"))
    around = position.unfold(2, 2, 1).unfold(3, 2, 1).unfold(4, 2, 1)[:, :, 1:-1, 1:-1, 1:-1]
    around = around.flatten(5)
    fine = (1.25 + torch.arange(6) / 2) * spacing
    out = out + torch.stack(torch.meshgrid(fine, fine, fine, indexing="ij"))
    cell = out.view(1, 3, 3, 2, 3, 2, 3, 2)
    for parity in np.ndindex(2, 2, 2):
        here = cell[:, :, :, parity[0], :, parity[1], :, parity[2]]
        assert (here <= around.amax(5) + 1e-5).all() and (here >= around.amin(5) - 1e-5).all()


def test_the_deformation_is_that_of_positions():
    """Of a homogeneous flow it is the matrix of the flow; where the origin moves is of no account."""
    torch.manual_seed(5)
    spacing, flow, bulk = 0.3, torch.randn(6, 3), torch.randn(6, 1, 1, 1)
    site = torch.arange(5) * spacing
    position = torch.stack(torch.meshgrid(site, site, site, indexing="ij"))
    y = torch.einsum("ca,aijk->cijk", flow, position) + bulk
    wanted = flow.clone()
    wanted[:3] += torch.eye(3)
    found = deformation(y[None], spacing)
    torch.testing.assert_close(found, wanted.T.reshape(1, 18, 1, 1, 1).expand(1, 18, 4, 4, 4))


def test_the_size_of_cells():
    """Three along each axis of the square of its stretching, whatever the velocities."""
    y = torch.randn(1, 6, 4, 4, 4)
    site = torch.arange(4) * 0.3
    for stretching in (1.0, 0.5, 0.0):
        grid = torch.stack(torch.meshgrid(site, site, site, indexing="ij"))
        y[0, :3] = (stretching - 1) * grid
        wanted = torch.tensor(3 * stretching**2 + SMALLEST_CELL).log()
        size = log_size(deformation(y, 0.3))
        torch.testing.assert_close(size, wanted.expand(1, 1, 3, 3, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("field", [0, 1])
def test_closed_gates_leave_the_combination(field):
    """Of displacements or of velocities alone, and open ones double what is added."""
    level = Generator(**SIZE, convex=3, spacing=0.4, gated=True).eval().levels[0]
    features, size = torch.randn(1, 16, 4, 4, 4), torch.randn(1, 1, 4, 4, 4)
    y = torch.zeros(1, 6, 5, 5, 5)  # whose combination is zero

    def increments(bias):
        with torch.no_grad():
            level.gate.bias[field] = bias
            added = level.combined(features, y, size, None, None)
        return added[:, 3 * field : 3 * field + 3], added[:, 3 - 3 * field :][:, :3]

    (closed, left), (half, others), (open_, _) = map(increments, (-100.0, 0.0, 100.0))
    assert (closed.abs() < 1e-6).all() and half.abs().max() > 0.01
    torch.testing.assert_close(open_, 2 * half)
    torch.testing.assert_close(left, others)


@pytest.mark.parametrize("element", ELEMENTS[1::7])
def test_turning_the_box_turns_the_combination(element):
    y, logits = np.random.default_rng(5).normal(size=(2, 6, 6, 6, 6)).astype("f4")
    y, logits = y[:3], np.resize(logits, (8, 6, 6, 6))

    def combined(y, logits):
        y = trim(torch.from_numpy(y.copy())[None], 1)
        return combine(y, torch.from_numpy(logits)[None], 0.5)[0]

    # logits are scalar fields, but the corners that they speak for turn too
    corners = 2 * CORNERS.numpy()[:, :, None, None, None] - 1
    turned = np.stack([transform(corner, element) for corner in corners])[..., 0, 0, 0]
    moved = np.empty_like(logits)
    moved[((turned + 1) / 2 @ [4, 2, 1]).astype(int)] = transform(logits, element)
    one = combined(transform(y, element), moved).numpy()
    np.testing.assert_allclose(one, transform(combined(y, logits).numpy(), element), atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("slab", [1, 1 << 15, 6 << 20])
def test_the_fused_one_gives_the_same(name, slab):
    generator = randomised(Generator(**SIZE, **OPTIONS[name]))
    inputs = chunk(generator, 2, 1, 3)
    reference = generator(*inputs)
    fine = fuse(generator, slab_bytes=slab)(*inputs)
    assert (fine - reference).abs().max() < ROUNDING * reference.abs().max()
    rough = fuse(generator, torch.bfloat16, slab)(*inputs)
    assert (rough - reference).abs().max() < 2e-2 * reference.abs().max()


@pytest.mark.mpi(ranks=4)
@pytest.mark.parametrize("name", OPTIONS)
def test_one_universe(comm, alone, data, tmp_path, name):
    """From its file on any number of ranks: the bits of one rank, and what other chunks give."""
    network = randomised(Generator(**SIZE, **OPTIONS[name]))
    amplitude = (0.01, 1.0) if network.phases else None
    arguments = network.arguments
    card = ModelCard("test", "displacement", arguments, factor=8, channels=6, amplitude=amplitude)
    path = tmp_path / "model.safetensors"
    if comm.rank == 0:
        save_model(path, network, card)
    comm.Barrier()
    assert load_model(path)[0].arguments == network.arguments

    def positions(comm, chunk):
        sr = SRCatalog(open_snapshot(data / "lr8_12p5_z2", comm), model=path, chunk=chunk)
        ids = np.concatenate(comm.allgather(sr["ID"].compute()))
        return np.concatenate(comm.allgather(sr["Position"].compute()))[np.argsort(ids)]

    together = positions(comm, 4)
    same, others = (alone(partial(positions, chunk=chunk)) for chunk in (4, 5))
    assert np.array_equal(together, same)
    apart = np.abs(others - together)
    assert np.minimum(apart, 12.5 - apart).max() < ROUNDING * 12.5
