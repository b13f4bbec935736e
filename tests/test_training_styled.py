import numpy as np
import pytest
import torch
from training_cases import make_pair, make_system, table

from nbodykit_sr.errors import InputError
from nbodykit_sr.models.displacement import DisplacementGenerator, standard_noise
from nbodykit_sr.models.loading import load_generator
from nbodykit_sr.models.styled import StyledGenerator
from nbodykit_sr.training.distributed import Ranks
from nbodykit_sr.training.export import export
from nbodykit_sr.training.loop import Trainer


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = StyledGenerator(3, 4, chan_base=8, chan_min=4)
    with torch.no_grad():
        for level in network.levels:
            level.noise0.std.fill_(0.3)
        for slope in network.slopes.values():
            slope.normal_()
    return network


@pytest.fixture
def chunk():
    x = torch.randn(2, 3, 8, 8, 8)
    return x, standard_noise(4, x)


def test_without_slopes_it_is_the_plain_generator(network, chunk):
    with torch.no_grad():
        for slope in network.slopes.values():
            slope.zero_()
        plain = DisplacementGenerator(**network.arguments)
        plain.load_state_dict(network.base.state_dict())
        assert torch.allclose(network(*chunk, torch.tensor([0.2, 1.0])), plain(*chunk), atol=1e-6)


def test_folded_weights_do_what_the_style_does(network, chunk):
    scale_factors = [0.25, 0.9]
    with torch.no_grad():
        styled = network(*chunk, torch.tensor(scale_factors))
        for b, a in enumerate(scale_factors):
            assert torch.allclose(network.at(a)(*chunk)[b], styled[b], atol=1e-6)
        assert not torch.allclose(network.at(0.25)(*chunk), network.at(0.9)(*chunk), atol=1e-2)


def test_demodulation_keeps_norms(network):
    plain, styled = network.base.state_dict(), network.weights(0.9)
    for name in ("levels.0.conv0.weight", "levels.1.conv1.weight"):
        norms = [w.flatten(1).norm(dim=1) for w in (plain[name], styled[name])]
        assert torch.allclose(*norms, rtol=1e-5)
        assert not torch.allclose(plain[name], styled[name], rtol=1e-2)


@pytest.mark.parametrize("convex, gated", [(0, False), (1, False), (1, True)])
def test_one_model_of_two_times(convex, gated, tmp_path):
    make_pair(tmp_path / "pair0", a=0.25)
    make_pair(tmp_path / "pair1", a=0.5)
    settings = table(tmp_path)
    with pytest.raises(InputError, match="0.250 to 0.500"):
        make_system(settings)
    settings["generator"] |= {"styled": True, "convex": convex, "gated": gated}
    Trainer(make_system(settings), Ranks(torch.device("cpu"))).run()
    export(settings["run"], tmp_path / "w.safetensors")
    network, card = load_generator(tmp_path / "w.safetensors")
    assert card.redshift == pytest.approx((1, 3))
    assert any((slope != 0).any() for slope in network.slopes.values())
    assert not gated or network.levels[-1].gate.weight.abs().max() > 0
    x = torch.from_numpy(np.ones((1, 3, 8, 8, 8), "f4"))
    assert network.at(0.4)(x, standard_noise(2, x)).shape == (1, 3, 10, 10, 10)
