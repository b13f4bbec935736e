"""Chunks in flight: geometry, order and independence of the number of threads."""

import numpy as np
import pytest
import torch

from nbodykit_sr.chunks import DEFAULT_SIDE, ChunkGrid
from nbodykit_sr.errors import InputError
from nbodykit_sr.inference import ChunkedInference, one_thread, prepare, widest_side
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.models.generator import PADDING, Generator, InterpolatingGenerator

N = 12
LATTICE = LagrangianLattice(N, 30.0)


def inference(network, dtype="float32", units=None):
    channels = network.channels
    units = np.ones(channels) if units is None else units
    device = torch.device("cpu")
    generator = prepare(network.eval(), device, dtype)
    return ChunkedInference(generator, network.factor, LATTICE, units, 3, device)


def lr_field(channels, seed=1):
    return np.random.default_rng(seed).normal(size=(channels, N, N, N)).astype("f4")


def padded_of(field):
    """Chunk to its padded piece of a periodic field."""

    def padded(chunk):
        rows = [
            np.arange(s - PADDING, s + n + PADDING) % N
            for s, n in zip(chunk.start, chunk.shape, strict=True)
        ]
        return field[(slice(None), *np.ix_(*rows))]

    return padded


def random_generator():
    torch.manual_seed(2)
    generator = Generator(channels=6, factor=4, chan_base=32, chan_min=16)
    for level in generator.levels:
        torch.nn.init.normal_(level.noise0.std, 0, 0.1)
        torch.nn.init.normal_(level.noise1.std, 0, 0.1)
    return generator


@pytest.fixture
def threads():
    """Sets the number of threads and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_without_displacement_particles_lie_on_the_fine_lattice():
    engine = inference(InterpolatingGenerator(channels=3, factor=4))
    fine = LATTICE.refine(4)
    seen = []
    for chunk, columns in engine.stream(
        ChunkGrid(N, 5).chunks(), lambda c: np.zeros((3, *np.add(c.shape, 6)), "f4"), "f8"
    ):
        expected = fine.site_position(chunk.sites(4))
        np.testing.assert_allclose(columns["Position"], expected, atol=1e-12)
        np.testing.assert_array_equal(columns["ID"], fine.id(chunk.sites(4)))
        seen.append(columns["ID"])
    assert set(columns) == {"Position", "ID"}
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(1, fine.size + 1))


def test_units_scale_what_comes_in_and_out():
    """Interpolation is linear, so units must cancel."""
    field = lr_field(6)
    chunk = ChunkGrid(N, 6).chunks()[0]
    padded = padded_of(field)(chunk)
    network = InterpolatingGenerator(channels=6, factor=2)
    plain = inference(network).fields(chunk, padded)
    scaled = inference(network, units=np.array([7.0] * 3 + [300.0] * 3)).fields(chunk, padded)
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_bits_for_any_number_of_threads(dtype, threads):
    engine = inference(random_generator(), dtype)
    chunks, padded = ChunkGrid(N, 4).chunks()[:5], padded_of(lr_field(6))
    results = []
    for count in (1, 2, 3):
        threads(count)
        assert engine.workers == count
        results.append(list(engine.stream(chunks, padded)))
        assert torch.get_num_threads() == count
    results.append([(chunk, engine.particles(chunk, padded(chunk))) for chunk in chunks])
    for result in results:
        assert [chunk for chunk, _ in result] == chunks
        for (_, columns), (_, first) in zip(result, results[0], strict=True):
            for name, values in first.items():
                np.testing.assert_array_equal(columns[name], values)


def test_chunks_make_the_whole():
    """However the box is cut, noise and padding give the same particles."""
    engine, padded = inference(random_generator()), padded_of(lr_field(6))
    columns = {}
    for side in (N, 4, 5):
        parts = [result for _, result in engine.stream(ChunkGrid(N, side).chunks(), padded)]
        order = np.argsort(np.concatenate([part["ID"] for part in parts]))
        columns[side] = {
            name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]
        }
    for side in (4, 5):
        moved = columns[side]["Position"] - columns[N]["Position"]
        moved -= LATTICE.BoxSize * np.rint(moved / LATTICE.BoxSize)
        assert abs(moved).max() < 1e-5
        np.testing.assert_allclose(columns[side]["Velocity"], columns[N]["Velocity"], atol=1e-5)


def test_positions_stay_inside_the_box():
    engine = inference(InterpolatingGenerator(channels=3, factor=2))
    chunk = ChunkGrid(N, N).chunks()[0]
    fine = LATTICE.refine(2)
    for shift in (-1e-12, 0.0, 1e-12):
        # onto the lower edge of the box, from either side
        disp = np.full((3, *3 * [N + 2 * PADDING]), shift - fine.offset * fine.cell, "f4")
        for dtype in ("f4", "f8"):
            position = engine.particles(chunk, disp, dtype)["Position"]
            assert position.dtype == dtype
            assert position.min() >= 0 and position.max() < LATTICE.BoxSize


def test_a_failure_in_a_thread_reaches_the_caller():
    engine = inference(InterpolatingGenerator(channels=3, factor=2))
    with pytest.raises(RuntimeError):
        list(engine.stream(ChunkGrid(N, 6).chunks(), lambda chunk: np.zeros((4, 12, 12, 12), "f4")))


def test_a_stream_can_be_left():
    engine, asked = inference(InterpolatingGenerator(channels=3, factor=2)), []
    padded = padded_of(lr_field(3))
    stream = engine.stream(ChunkGrid(N, 3).chunks(), lambda c: asked.append(c) or padded(c))
    next(stream)
    stream.close()
    assert 0 < len(asked) <= engine.workers + 1  # no more chunks in memory than that


def test_one_thread_gives_the_others_back(threads):
    threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_unknown_number_format():
    with pytest.raises(InputError, match="float16.*is needed"):
        prepare(InterpolatingGenerator(3, 2), torch.device("cpu"), "float16")


def test_memory_grows_with_the_chunk_and_not_with_its_length_alone():
    engine = inference(random_generator())
    small, wide = engine.working_memory((4, 4, 4)), engine.working_memory((8, 8, 8))
    assert small < wide < 8 * small


def test_chunks_are_as_wide_as_a_gpu_has_memory_for(monkeypatch):
    """The free memory is asked for; twice as much never makes chunks narrower."""
    generator = prepare(random_generator(), torch.device("cpu"))
    assert widest_side(generator, torch.device("cpu")) == DEFAULT_SIDE
    sides = []
    for free in (1e6, 4e9, 8e9, 16e9, 64e9):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80e9))
        sides.append(widest_side(generator, torch.device("cuda", 0)))
    assert sides == sorted(sides)
    assert sides[0] == 8 and sides[-1] == 32
