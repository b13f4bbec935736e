import pytest
import torch

from nbodykit_sr.models.critic import Critic, smallest_input
from nbodykit_sr.training.cic import mesh_position
from nbodykit_sr.training.features import (
    difference,
    energy_score,
    log_distance,
    log_radius,
    ordered,
)
from nbodykit_sr.training.losses import (
    critic_loss,
    generator_loss,
    gradient_penalty,
    shell_power,
    statistics_loss,
)


def linear_critic(weight):
    return lambda x: (x * weight).sum((1, 2, 3, 4))


def test_penalty_of_a_linear_critic():
    torch.manual_seed(0)
    weight = torch.randn(1, 2, 3, 3, 3)
    real, fake, mixing = torch.randn(4, 2, 3, 3, 3), torch.randn(4, 2, 3, 3, 3), torch.rand(4)
    norm = weight.norm()
    found = gradient_penalty("wasserstein", linear_critic(weight), real, fake, mixing)
    assert found == pytest.approx(float((norm - 1) ** 2), rel=1e-5)
    found = gradient_penalty("relativistic", linear_critic(weight), real, fake, mixing)
    assert found == pytest.approx(float(norm**2), rel=1e-5)


def test_where_the_penalty_is_taken():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square().sum((1, 2, 3, 4))

    real, fake = torch.ones(2, 1, 1, 1, 1), torch.zeros(2, 1, 1, 1, 1)
    gradient_penalty("wasserstein", critic, real, fake, torch.tensor([0.25, 1.0]))
    gradient_penalty("relativistic", critic, real, fake, None)
    assert [x.flatten().tolist() for x in seen] == [[0.25, 1.0], [1.0, 1.0]]


def test_penalty_pulls_gradients_to_one():
    torch.manual_seed(1)
    critic = Critic(2, blocks=1, chan_base=8, chan_min=4)
    real, fake, mixing = torch.randn(2, 2, 8, 8, 8), torch.randn(2, 2, 8, 8, 8), torch.rand(2)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    penalties = []
    for _ in range(60):
        penalty = gradient_penalty("wasserstein", critic, real, fake, mixing)
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        penalties.append(float(penalty.detach()))
    assert penalties[-1] < 0.1 * penalties[0]


@pytest.mark.parametrize("kind", ["wasserstein", "relativistic"])
def test_adversaries_want_opposite_things(kind):
    real, fake = torch.zeros(2), torch.zeros(2, requires_grad=True)
    (wish,) = torch.autograd.grad(generator_loss(kind, real, fake), fake)
    (doubt,) = torch.autograd.grad(critic_loss(kind, real, fake), fake)
    assert (wish < 0).all() and (doubt > 0).all()


def test_what_a_sample_owes_to_lr_does_not_matter_to_a_relativistic_critic():
    real, fake = torch.randn(2, 4)
    for lr in (torch.zeros(4), 10 * torch.randn(4)):
        loss = critic_loss("relativistic", real + lr, fake + lr)
        torch.testing.assert_close(loss, critic_loss("relativistic", real, fake))


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_critic_takes_its_smallest_input(blocks):
    critic = Critic(1, blocks, chan_base=4, chan_min=2)
    size = smallest_input(blocks)
    assert critic(torch.zeros(3, 1, size, size, size)).shape == (3,)
    with pytest.raises(RuntimeError):
        critic(torch.zeros(1, 1, size - 1, size - 1, size - 1))


def test_papers_critic():
    with torch.device("meta"):
        critic = Critic(14)
        assert critic(torch.zeros(1, 14, 112, 112, 112)).shape == (1,)
    assert [block.conv1.weight.shape[:2] for block in critic.body] == [
        (64, 64),
        (128, 64),
        (256, 128),
        (512, 256),
    ]


def test_shells_find_a_wave():
    x = torch.arange(16) * (2 * torch.pi / 16)
    for k, shell in [(1, 0), (2, 2), (4, 4)]:
        wave = torch.sin(k * x).view(1, 1, 16, 1, 1).expand(1, 1, 16, 16, 16)
        power = shell_power(wave, window=False)[0]
        assert power.argmax() == shell
        assert power[shell] / power.sum() > 0.999


def test_statistics_are_blind_to_phases_but_not_to_power():
    torch.manual_seed(3)
    one, other = torch.randn(2, 1, 1, 24, 24, 24)

    def loss(a, b):
        return float(statistics_loss([(a, b)], [(a.exp(), b.exp())]))

    assert loss(one, one) == 0
    assert loss(one, other) < 0.1 * loss(one, 2 * other)


@pytest.mark.parametrize("side", [2, 4])
def test_radius_of_cubes(side):
    """Of a lattice at rest, of one moved, of one stretched, and of a collapsed one."""
    site = torch.arange(8.0)
    rest = torch.zeros(1, 3, 8, 8, 8)
    expected = ((side**2 - 1) / 4 + 0.05) ** 0.5  # 3 axes, (n^2 - 1) / 12 each

    def radius(displacement):
        return log_radius(mesh_position(displacement, 1.0), side).exp()

    assert radius(rest).shape[-1] == (8 - side) // max(2, side // 2) + 1
    for moved in (0.0, 30.0):
        assert radius(rest + moved).sub(expected).abs().max() < 1e-3
    collapsed = torch.stack(torch.meshgrid(-site, -site, -site, indexing="ij"))[None]
    assert radius(collapsed).sub(0.05**0.5).abs().max() < 1e-3
    assert radius(-collapsed).sub((side**2 - 1 + 0.05) ** 0.5).abs().max() < 1e-3


def test_statistics_have_a_gradient():
    torch.manual_seed(4)
    fake = torch.rand(1, 1, 12, 12, 12, requires_grad=True)
    real = torch.rand(1, 1, 12, 12, 12) * 2
    statistics_loss([(fake, real)], [(fake, real)]).backward()
    assert torch.isfinite(fake.grad).all() and (fake.grad != 0).any()


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize(
    "loss",
    [
        lambda x: shell_power(x),
        lambda x: shell_power(x, window=False),
        lambda x: log_distance(difference(x, 2, 1), 2, 1),
        lambda x: energy_score(x, torch.ones_like(x[:1])),
        lambda x: ordered(x).square(),
    ],
    ids=["power", "periodic power", "distance", "score", "order"],
)
def test_gradients_that_are_written_out(loss, size):
    x = torch.randn(2, 3, size, size, size, dtype=torch.float64, generator=torch.manual_seed(5))
    assert torch.autograd.gradcheck(loss, x.requires_grad_(), fast_mode=True)
