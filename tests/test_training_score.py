import numpy as np
import pytest
import torch
from training_cases import make_pair, table

from nbodykit_sr.errors import InputError
from nbodykit_sr.train import make_system
from nbodykit_sr.training.cic import mesh_position
from nbodykit_sr.training.distributed import Ranks
from nbodykit_sr.training.features import (
    energy_score,
    pdf_distance,
    sliced_distance,
    value_difference,
)
from nbodykit_sr.training.loop import Trainer
from nbodykit_sr.training.objectives import (
    CUBES,
    FINEST,
    collapse,
    densities,
    log_densities,
    patches,
    redshift_space,
)

ALONE = Ranks(torch.device("cpu"))


@pytest.fixture
def settings(tmp_path):
    make_pair(tmp_path / "pair")
    stage = {"steps": 6, "score": 1.0, "statistics": 0.1, "learning_rate": 1e-2}
    return table(tmp_path, stage=[stage], score={"lags": [1, 2]})


def drawn(system):
    """A batch of one sample."""
    sample = system.sample(np.random.default_rng(0))
    return system.prepare({k: torch.as_tensor(v)[None] for k, v in sample.items()})


def test_energy_score_is_proper():
    """Of all Gaussians, the one the truth is drawn from scores best, in width and in mean."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((3, 3, 50, 50, 50), generator=generator)

    def score(width, mean):
        members = width * x[:2] + mean
        return energy_score(members, x[2:]).item()

    best = score(1.0, 0.0)
    assert all(best < score(*other) for other in ((0.7, 0.0), (1.3, 0.0), (1.0, 0.3)))
    # and it is half the mean distance of two draws: a chi of 3 degrees times sqrt(2), halved
    assert best == pytest.approx(2 / torch.pi**0.5, rel=0.01)


def test_a_pdf_tells_how_much_but_not_where():
    x = torch.randn(2, 1, 6, 6, 6)
    assert pdf_distance(torch.cat([x, x]), x.flip(2)) == 0
    assert pdf_distance(torch.cat([x, x]), x + 0.3).item() == pytest.approx(0.3, rel=1e-4)


def test_medians_are_not_the_fair_best():
    """Of skewed values, draws of their own distribution score best; by plain distances the median
    would, whose mean is too low."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((3, 200_000), generator=generator).exp()

    def difference(members, fair=True):
        return value_difference(members, x[2:], fair).item()

    drawn, median, wide = x[:2], torch.ones_like(x[:2]), x[:2] ** 1.5
    assert difference(median, fair=False) < difference(drawn, fair=False)
    assert all(difference(drawn) < difference(other) for other in (median, wide, 0.8 * drawn))
    # half the mean difference of two draws of a lognormal: its mean times erf(1 / 2)
    assert difference(drawn) == pytest.approx(0.8582, rel=0.02)


def test_the_densest_particles_count():
    """What an eighth of the mass loses in density weighs more in its root than in its log."""
    generator = torch.Generator().manual_seed(0)
    halo = torch.randn((3, 8, 8, 8), generator=generator)
    lattice = torch.stack(torch.meshgrid(*[torch.arange(8.0) - 3.5] * 3, indexing="ij"))

    def distances(radius):
        """From a halo of that radius to one of half a cell, in units of the scatter."""
        fields = torch.zeros(2, 3, 16, 16, 16)
        for field, scale in zip(fields, (radius, 0.5)):
            field[:, 4:12, 4:12, 4:12] = scale * halo - lattice
        shift = torch.zeros(2, 3)
        logs = log_densities(densities(fields, shift), 2)
        position = mesh_position(fields, 1.0, shift=shift)
        found = list(collapse(position, logs, (0, 0, 0), roots=True))
        log, root = found[len(CUBES) : len(CUBES) + 2]  # on the finest mesh
        return [pdf_distance(x[:1].repeat(2, 1, 1, 1, 1), x[1:]) / x[1:].std() for x in (log, root)]

    assert distances(0.5) == [0, 0]
    log, root = distances(0.6)
    assert root > 1.2 * log > 0


def test_patches_tell_a_string_from_a_ball():
    """Of as many particles, with like densities; one ball is as good as another."""
    generator = torch.Generator().manual_seed(0)
    lattice = torch.stack(torch.meshgrid(*[torch.arange(32.0) - 15.5] * 3, indexing="ij"))
    shape = torch.tensor([8.0, 0.5, 0.5]).view(3, 1, 1, 1), torch.full((3, 1, 1, 1), 1.26)
    string, ball, another = (
        axes * torch.randn((3, 32, 32, 32), generator=generator) - lattice
        for axes in (*shape, shape[1])
    )

    def values(field):
        shift, field = torch.zeros(1, 3), field[None]
        logs = log_densities(densities(field, shift), FINEST)
        return patches(mesh_position(field, 1.0, shift=shift), logs, drawn=7)

    def distance(field):
        return sliced_distance(values(field).repeat(2, 1, 1), values(ball)).item()

    assert distance(ball) == 0
    assert distance(string) > 3 * distance(another) > 0


def test_what_has_collapsed_counts(settings):
    """Fields scattered within a cell are told from those that stay: by `pdf` more than without."""
    batch = drawn(make_system(settings))
    generator = torch.Generator().manual_seed(0)
    scatter = torch.randn((2, *batch["hr"].shape[1:]), generator=generator)
    scattered = batch["hr"] + 0.5 * scatter / (batch["unit"] * 2 / 1.5625)

    def loss(weight, fields):
        table = {**settings, "score": {**settings["score"], "pdf": weight}}
        return make_system(table).objective(batch, fields, ["score"])["score"]

    same = torch.cat([batch["hr"]] * 2)
    assert loss(5.0, same) == loss(0.0, same)
    assert loss(5.0, scattered) > loss(0.0, scattered) + 0.1


def test_redshift_space_of_linear_theory():
    """Where velocities are linear theory's, displacements along the line of sight grow by 1 + f
    (Kaiser 1987), others stay."""
    displacement = torch.randn(2, 3, 4, 4, 4)
    rate = torch.tensor([0.5, 0.9])
    moved = redshift_space(torch.cat([displacement, displacement], 1), rate, axis=1)
    torch.testing.assert_close(moved[:, 1], displacement[:, 1] * (1 + rate).view(2, 1, 1, 1))
    assert torch.equal(moved[:, [0, 2]], displacement[:, [0, 2]])


def test_cold_velocities_count_in_redshift_space(settings, tmp_path):
    """Particles at the right places that move too slowly are told from the truth there alone."""
    make_pair(tmp_path / "six", channels=6)
    settings["pairs"] = {"train": [str(tmp_path / "six")]}
    settings["generator"] = {**settings["generator"], "channels": 6}
    batch = drawn(make_system(settings))
    batch["hr"][:, 3:] = torch.randn(batch["hr"][:, 3:].shape, generator=torch.manual_seed(0))
    warm = torch.cat([batch["hr"]] * 2)
    cold = warm.clone()
    cold[:, 3:] *= 0.2

    def loss(weight, fields):
        score = {**settings["score"], "velocity": 0.0, "redshift": weight}
        system = make_system({**settings, "score": score})
        return system.objective(batch, fields, ["score"])["score"]

    assert loss(0.0, cold) == loss(0.0, warm)
    assert loss(1.0, cold) > loss(1.0, warm) + 0.1
    with pytest.raises(InputError, match="score.redshift is 1.0"):
        settings["generator"]["channels"] = 3
        make_system({**settings, "score": {"redshift": 1.0}})


def test_members_differ_and_learn(settings):
    system = make_system(settings)
    trainer = Trainer(system, ALONE)
    trainer.run()
    batch = drawn(system)
    with torch.no_grad():
        one, other = system.generate(trainer.generator, batch, 2).chunk(2)
    assert one.shape == batch["hr"].shape
    assert not torch.allclose(one, other)
    first = Trainer(make_system({**settings, "run": settings["run"] + "2"}), ALONE)
    with torch.no_grad():
        before, after = (
            system.objective(batch, system.generate(t.generator, batch, 2), ["score"])["score"]
            for t in (first, trainer)
        )
    assert after < before


@pytest.mark.parametrize("styled", [False, True])
def test_each_level_is_scored(settings, tmp_path, styled):
    """A coarser level that differs from HR's averages costs, whatever the finest does; and it alone
    can teach the first level."""
    make_pair(tmp_path / "fine", factor=4)
    settings["pairs"] = {"train": [str(tmp_path / "fine")]}
    settings["generator"] = {**settings["generator"], "styled": styled, "convex": 1}
    settings["sample"] = {"crop": 2}
    with pytest.raises(InputError, match="score.levels needs more than the largest of score.lags"):
        make_system({**settings, "score": {"levels": 1.0}})
    score = {**settings["score"], "meshes": 2}
    plain = make_system({**settings, "score": score})
    system = make_system({**settings, "score": {**score, "levels": 2.0}})
    batch = drawn(system)
    generator = system.networks()[0]
    made = system.generate(generator, batch, members=2)
    (coarse,) = batch["coarser"]
    assert (coarse.shape, made.shape) == ((2, 3, 4, 4, 4), (2, 3, 8, 8, 8))

    def loss(system, fields, coarser=None):
        return system.objective({**batch, "coarser": [coarser]}, fields, ["score"])["score"]

    same = torch.cat([batch["hr"]] * 2)
    averages = torch.nn.functional.avg_pool3d(same, 2)
    # what is left of a distance that is zero is its softening, the same at each level
    none = loss(plain, same)
    torch.testing.assert_close(loss(system, same, averages), 3 * none)
    assert loss(system, same, averages + 0.1) > 3 * none + 0.1
    loss(system, same, coarse).backward()
    first, second = generator.levels
    assert first.conv0.weight.grad.abs().max() > 0
    assert second.conv0.weight.grad is None


def test_rungs_start_from_a_coarser_run(settings, tmp_path):
    make_pair(tmp_path / "fine", factor=4)
    settings["pairs"] = {"train": [str(tmp_path / "fine")], "held_out": [str(tmp_path / "fine")]}
    coarse_settings = {**settings, "pairs": {**settings["pairs"], "factor": 2}}
    system = make_system(coarse_settings)
    assert system.train[0].hr.shape == (3, 16, 16, 16)
    whole = np.load(tmp_path / "fine" / "hr.npy")
    assert system.train[0].hr[1, 2, 3, 4] == pytest.approx(
        whole[1, 4:6, 6:8, 8:10].mean(), abs=1e-6
    )
    coarse = Trainer(system, ALONE)
    coarse.run()
    fine = {**settings, "run": str(tmp_path / "finer"), "start": [settings["run"]]}
    whole = Trainer(make_system(fine), ALONE)
    assert whole.generator.factor == 4
    for name, weight in coarse.average.state_dict().items():
        assert torch.equal(whole.generator.state_dict()[name], weight)
    whole.run()
    again = {**coarse_settings, "run": str(tmp_path / "again"), "start": [fine["run"]]}
    for name, weight in Trainer(make_system(again), ALONE).generator.state_dict().items():
        assert torch.equal(whole.average.state_dict()[name], weight)
    fine["run"] = str(tmp_path / "styled")
    fine["generator"] = {**settings["generator"], "styled": True}
    plain = Trainer(make_system(fine), ALONE).generator.at(0.7).state_dict()
    for name, weight in coarse.average.state_dict().items():
        torch.testing.assert_close(plain[name], weight)
    with pytest.raises(InputError, match="pairs.factor is 3"):
        make_system({**settings, "pairs": {**settings["pairs"], "factor": 3}})


def test_a_critic_must_fit_the_coarser_factor(settings, tmp_path):
    """Crops of 4 LR sites are 16 SR sites for the pairs' factor, 8 for the one trained for."""
    make_pair(tmp_path / "fine", factor=4)
    settings["pairs"] = {"train": [str(tmp_path / "fine")]}
    settings["stage"][0] |= {"adversarial": "relativistic"}
    settings["critic"] |= {"blocks": 2}
    make_system(settings)
    with pytest.raises(InputError, match="sample.crop is 4, so 8 SR sites"):
        make_system({**settings, "pairs": {**settings["pairs"], "factor": 2}})


def test_a_critic_joins_the_score(settings):
    """It sees one field for each sample, and moves the generator beside the score."""
    settings["stage"][0] |= {"adversarial": "relativistic", "penalty": 1.0, "penalty_every": 2}
    alone = {**settings, "run": settings["run"] + "2"}
    alone["stage"] = [{**settings["stage"][0], "adversarial_weight": 0.0}]
    joined, scored = Trainer(make_system(settings), ALONE), Trainer(make_system(alone), ALONE)
    batch = drawn(joined.system)
    seen = joined.system.critic_fields(batch, joined.system.generate(joined.generator, batch))
    assert seen.shape == joined.system.critic_fields(batch, batch["hr"]).shape
    assert len(seen) == len(batch["lr"])
    before = [p.clone() for p in joined.critic.parameters()]
    for trainer in (joined, scored):
        trainer.run()
    assert not all(map(torch.equal, before, joined.critic.parameters()))
    assert not all(map(torch.equal, scored.generator.parameters(), joined.generator.parameters()))


def test_the_critic_sees_distances(settings):
    """Of neighbours on the lattice: of one cell without displacement, and none past the faces."""
    settings["critic"] = {**settings["critic"], "distances": True, "density_factor": 0}
    system = make_system(settings)
    batch = drawn(system)
    _, critic = system.networks()
    seen = system.critic_fields(batch, torch.zeros_like(batch["hr"]))
    assert torch.isfinite(critic(seen)).all()
    cell = seen[:, -3:].exp()
    assert cell[:, :, :-1, :-1, :-1].sub(1.05**0.5).abs().max() < 1e-5
    for axis in range(3):
        assert (cell[:, axis].select(1 + axis, -1) == 1).all()
    stretched = torch.zeros_like(batch["hr"])
    unit = batch["unit"] * system.factor / system.cell
    stretched[:, 1] = torch.arange(8.0).view(8, 1) / unit
    cell = system.critic_fields(batch, stretched)[0, -3:, :-1, :-1, :-1].exp()
    for distance, square in zip(cell, (1, 4, 1)):
        assert distance.sub((square + 0.05) ** 0.5).abs().max() < 1e-5
