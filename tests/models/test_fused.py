"""The fused generator against the published form of the network."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from nbodykit.lab import ArrayCatalog, FFTPower

from nbodykit_sr.models import planes
from nbodykit_sr.models.blocks import trim, upsample
from nbodykit_sr.models.fused import FusedGenerator
from nbodykit_sr.models.generator import Generator, standard_noise

# Of float32, of the largest value: instruction sets sum in different orders, up to 2e-6 apart;
# a fault in the mathematics is of 1e-3 and more
ROUNDING = 1e-5


def network(**arguments):
    """A generator with random weights that keep the features' scale, and noise of 0.1."""
    torch.manual_seed(20)
    generator = Generator(**arguments)
    with torch.no_grad():
        for level in generator.levels:
            for conv in (level.conv0, level.conv1):
                torch.nn.init.kaiming_normal_(conv.weight, 0.2)
            level.noise0.std.normal_(0, 0.1)
            level.noise1.std.normal_(0, 0.1)
    return generator.eval().requires_grad_(False)


def published(generator, x, noise):
    """The generator step by step as Li et al. (2021) draw it in Fig. 7."""
    y = x
    x = generator.stem(x)
    for b, level in enumerate(generator.levels):
        x = upsample(level.noise0(x, noise[2 * b]))
        x = level.noise1(level.act(level.conv0(x)), noise[2 * b + 1])
        x = level.act(level.conv1(x))
        y = trim(upsample(y), 2) + level.act(level.proj(x))
    return y


def chunk(generator, *shape, batch=1):
    x = torch.randn(batch, generator.channels, *shape)
    return x, standard_noise(generator, x)


def relative(output, reference):
    return ((output - reference).abs().max() / reference.abs().max()).item()


@pytest.mark.parametrize(
    "arguments, shape",
    [
        (dict(channels=6, factor=8, chan_base=64, chan_min=8), (8, 8, 8)),
        (dict(channels=3, factor=8, chan_base=64, chan_min=8, noise_gain=2.0), (7, 9, 12)),
        (dict(channels=3, factor=2, chan_base=32, chan_min=16), (7, 8, 13)),
        (dict(channels=6, factor=4, chan_base=24, chan_min=5), (12, 7, 7)),
        (dict(channels=3, factor=16, chan_base=12, chan_min=1), (7, 7, 8)),
        (dict(channels=3, factor=2, chan_base=96, chan_min=7, chan_max=40), (20, 7, 9)),
    ],
)
def test_float32_equals_the_reference(arguments, shape):
    generator = network(**arguments)
    x, noise = chunk(generator, *shape)
    output = FusedGenerator(generator)(x, noise)
    assert output.dtype == torch.float32
    assert relative(output, published(generator, x, noise)) < ROUNDING


def test_a_batch_is_its_chunks():
    generator = network(channels=3, factor=4, chan_base=16, chan_min=8)
    x, noise = chunk(generator, 7, 8, 9, batch=3)
    output = FusedGenerator(generator)(x, noise)
    assert output.shape == generator(x, noise).shape
    for b in range(3):
        alone = FusedGenerator(generator)(x[b : b + 1], [field[b : b + 1] for field in noise])
        assert torch.equal(output[b], alone[0])


@pytest.mark.parametrize("slab", [1, 1 << 14, 1 << 17, 1 << 30])
def test_the_slabs_leave_no_trace(slab):
    generator = network(channels=3, factor=4, chan_base=32, chan_min=16)
    x, noise = chunk(generator, 13, 9, 8)
    engine = FusedGenerator(generator, slab_bytes=slab)
    assert relative(engine(x, noise), published(generator, x, noise)) < ROUNDING


def test_slabs_shrink_until_memory_suffices(caplog):
    class Narrow(FusedGenerator):
        def chunk(self, x, noise, psi, slab_bytes):
            if slab_bytes > 2 << 20:
                raise torch.cuda.OutOfMemoryError
            return super().chunk(x, noise, psi, slab_bytes)

    generator = network(channels=3, factor=2, chan_base=16, chan_min=8)
    x, noise = chunk(generator, 4, 4, 4)
    engine = Narrow(generator, slab_bytes=8 << 20)
    assert torch.equal(engine(x, noise), FusedGenerator(generator)(x, noise))
    assert engine.slab_bytes == 2 << 20 and len(caplog.messages) == 2
    engine(x, noise)
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_calling_onednn_itself(dtype, monkeypatch):
    """As on a GPU, or a processor that oneDNN has no bfloat16 for."""
    generator = network(channels=6, factor=4, chan_base=32, chan_min=16)
    x, noise = chunk(generator, 8, 7, 9)
    fast = FusedGenerator(generator, dtype)(x, noise)
    monkeypatch.setattr(planes, "with_onednn", lambda x: False)
    output = FusedGenerator(generator, dtype)(x, noise)
    assert relative(output, fast) < (ROUNDING if dtype == torch.float32 else 1e-2)


def test_noise_reaches_every_layer():
    """Each layer's noise changes the output as it changes the reference's."""
    generator = network(channels=3, factor=4, chan_base=16, chan_min=8)
    x, noise = chunk(generator, 8, 8, 8)
    engine = FusedGenerator(generator)
    for layer in range(len(noise)):
        other = list(noise)
        other[layer] = noise[layer] + 1
        change = engine(x, other) - engine(x, noise)
        assert change.abs().max() > 1e-3
        reference = published(generator, x, other) - published(generator, x, noise)
        torch.testing.assert_close(
            change, reference, rtol=0, atol=ROUNDING * generator(x, noise).abs().max()
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bitwise_the_same_from_concurrent_threads(dtype):
    """Ranks and threads share out the chunks: who computes one must not show."""
    generator = network(channels=6, factor=8, chan_base=128, chan_min=32)
    engine = FusedGenerator(generator, dtype)
    chunks = [chunk(generator, 8, 8, 8) for _ in range(3)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = [FusedGenerator(generator, dtype)(*pair) for pair in chunks]
        with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            together = list(pool.map(lambda pair: engine(*pair), 2 * chunks))
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(2 * alone, together, strict=True):
        assert torch.equal(a, b)


def power(disp):
    """Density power spectrum of displaced lattice sites, disp (3, N, N, N) [cells]."""
    n = disp.shape[-1]
    site = np.stack(np.meshgrid(*3 * [np.arange(n)], indexing="ij"))
    position = (site + disp).reshape(3, -1).T % n
    mesh = ArrayCatalog({"Position": position}, BoxSize=3 * [n]).to_mesh(n, resampler="cic")
    return FFTPower(mesh, mode="1d", dk=2 * np.pi / n).power["power"].real[1:]


def test_bfloat16_keeps_the_power_spectrum():
    """P(k) of a periodic box within 0.1% of float32's, up to the SR Nyquist wavenumber."""
    torch.manual_seed(20)
    generator = Generator(channels=3, factor=4, chan_base=128, chan_min=32)
    for level in generator.levels:
        torch.nn.init.normal_(level.noise0.std, 0, 0.1)
        torch.nn.init.normal_(level.noise1.std, 0, 0.1)
    n = 12
    k = np.stack(np.meshgrid(*3 * [np.fft.fftfreq(n, 1 / n)], indexing="ij"))
    red = np.maximum((k**2).sum(axis=0), 1) ** -0.75
    x = np.fft.ifftn(red * np.fft.fftn(np.random.default_rng(5).normal(size=(3, n, n, n)))).real
    x = torch.tensor(np.pad(x, [(0, 0)] + 3 * [(3, 3)], "wrap"), dtype=torch.float32)[None]
    noise = standard_noise(generator, x)
    exact, rounded = (
        FusedGenerator(generator, dtype)(x, noise)[0, :, 3:-3, 3:-3, 3:-3].double().numpy()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert 0 < np.abs(rounded - exact).max() < 1e-2 * exact.std()
    cells = 4 / exact.std()  # an rms displacement of one LR cell
    assert np.abs(power(cells * rounded) / power(cells * exact) - 1).max() < 1e-3


def test_coarse_kernels_are_upsampling_and_convolution():
    """One axis at a time is enough to see: constants stay constants under the folded kernels."""
    weight = torch.randn(2, 3, 3, 3, 3)
    for kernel in planes.phase_kernels(weight):
        total = kernel.sum(dim=(2, 3, 4)).view(2, 2, 3)
        torch.testing.assert_close(total, weight.sum(dim=(2, 3, 4)).expand(2, 2, 3))
