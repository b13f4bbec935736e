import numpy as np
import pytest
import torch
from training_cases import make_pair, table

from nbodykit_sr.commands.train import make_system
from nbodykit_sr.errors import InputError
from nbodykit_sr.training.distributed import Ranks
from nbodykit_sr.training.features import energy_score, pdf_distance
from nbodykit_sr.training.loop import Trainer
from nbodykit_sr.training.objectives import redshift_space

ALONE = Ranks(torch.device("cpu"))


@pytest.fixture
def settings(tmp_path):
    make_pair(tmp_path / "pair")
    stage = {"steps": 6, "score": 1.0, "statistics": 0.1, "learning_rate": 1e-2}
    return table(tmp_path, stage=[stage])


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


def test_what_has_collapsed_counts(settings):
    """Fields scattered within a cell are told from those that stay: by `pdf` more than without."""
    batch = drawn(make_system(settings))
    generator = torch.Generator().manual_seed(0)
    scatter = torch.randn((2, *batch["hr"].shape[1:]), generator=generator)
    scattered = batch["hr"] + 0.5 * scatter / (batch["unit"] * 2 / 1.5625)

    def loss(weight, fields):
        table = {**settings, "score": {"pdf": weight}}
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
        score = {"velocity": 0.0, "redshift": weight}
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


def test_each_level_is_scored(settings, tmp_path):
    """A coarser level that differs from HR's averages costs, whatever the finest does; and it alone
    can teach the first level."""
    make_pair(tmp_path / "fine", factor=4)
    settings["pairs"] = {"train": [str(tmp_path / "fine")]}
    settings["generator"] = {**settings["generator"], "convex": 1}
    settings["sample"] = {"crop": 2}
    score = {"meshes": 2}
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
    # what is left of a distance that is zero is its softening
    none = loss(system, same, averages)
    assert loss(plain, same) < none < 3 * loss(plain, same)
    assert loss(system, same, averages + 0.1) > none + 0.1
    loss(system, same, coarse).backward()
    first, second = generator.levels
    assert first.conv0.weight.grad.abs().max() > 0
    assert second.conv0.weight.grad is None


def test_levels_start_from_a_coarser_run(settings, tmp_path):
    """A run for a larger factor takes the levels that another has."""
    Trainer(make_system(settings), ALONE).run()
    coarse = torch.load(next((tmp_path / "run/checkpoints").glob("*6.pt")), weights_only=True)
    make_pair(tmp_path / "fine", factor=4)
    fine = {**settings, "run": str(tmp_path / "finer"), "start": [settings["run"]]}
    fine["pairs"] = {"train": [str(tmp_path / "fine")]}
    whole = Trainer(make_system(fine), ALONE).generator
    assert whole.factor == 4
    for name, weight in coarse["average"].items():
        assert torch.equal(whole.state_dict()[name], weight)


def test_a_critic_must_fit_the_crops(settings):
    """Crops of 4 LR sites are 8 SR sites."""
    settings["stage"][0] |= {"adversarial": "relativistic"}
    make_system(settings)
    settings["critic"] |= {"blocks": 2}
    with pytest.raises(InputError, match="sample.crop is 4, so 8 SR sites"):
        make_system(settings)


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
