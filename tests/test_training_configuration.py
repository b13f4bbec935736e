from pathlib import Path

import pytest

from nbodykit_sr.errors import InputError
from nbodykit_sr.train import configure
from nbodykit_sr.training.configuration import build, plain, read_toml
from nbodykit_sr.training.displacement_configuration import DisplacementConfiguration

RECIPES = [
    path
    for path in sorted((Path(__file__).parents[1] / "examples/recipes").rglob("*.toml"))
    if path.stem != "base"
]
MINIMAL = {"run": "x", "pairs": {"train": ["pair"]}}


def test_defaults_are_the_paper():
    c = build(DisplacementConfiguration, MINIMAL)
    first, second = c.stage
    assert (first.epochs, first.l2, first.adversarial) == (5, 1, "none")
    assert (second.epochs, second.l2, second.adversarial) == (150, 0, "wasserstein")
    assert (second.penalty, second.penalty_every, second.critic_steps) == (10, 16, 1)
    assert {s.learning_rate for s in c.stage} == {s.critic_learning_rate for s in c.stage} == {1e-5}
    assert c.betas == (0, 0.99)
    assert (c.sample.crop, c.generator.chan_base, c.generator.chan_min) == (14, 512, 64)
    assert (c.average, c.precision, first.statistics, second.statistics) == (0, "float32", 0, 0)


def test_configuration_survives_a_checkpoint():
    c = build(DisplacementConfiguration, {**MINIMAL, "stage": [{"steps": 3, "l2": 1}]})
    assert build(DisplacementConfiguration, plain(c)) == c


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_examples_are_configurations(path):
    configuration, _ = configure(read_toml(path))
    assert configuration.run


def test_files_that_extend_others(tmp_path):
    """Tables are merged, whatever the depth; lists are replaced; no file may extend itself."""
    (tmp_path / "below").mkdir()
    (tmp_path / "base.toml").write_text(
        "run = 'a'\nbetas = [0, 0.9]\n[sample]\ncrop = 6\nbulk = 1.0\n"
    )
    (tmp_path / "below/mid.toml").write_text("extends = '../base.toml'\n[sample]\ncrop = 8\n")
    (tmp_path / "top.toml").write_text(
        "extends = 'below/mid.toml'\nrun = 'b'\nbetas = [0.5, 0.9]\n"
    )
    assert read_toml(tmp_path / "top.toml") == {
        "run": "b",
        "betas": [0.5, 0.9],
        "sample": {"crop": 8, "bulk": 1.0},
    }
    (tmp_path / "base.toml").write_text("extends = 'top.toml'\n")
    with pytest.raises(InputError, match="top.toml extends itself"):
        read_toml(tmp_path / "top.toml")
    (tmp_path / "base.toml").write_text("extends = 3\n")
    with pytest.raises(InputError, match="extends of .* is 3"):
        read_toml(tmp_path / "base.toml")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"generator": {"chan_bse": 3}}, ["generator.chan_bse", "did you mean 'chan_base'"]),
        ({"generator": {"gated": True}}, ["generator.gated", "set generator.convex"]),
        ({"bacth": 3}, ["bacth", "did you mean 'batch'"]),
        ({"batch": "four"}, ["batch is 'four'", "an integer"]),
        ({"batch": True}, ["batch is True", "an integer"]),
        ({"batch": 0}, ["batch is 0"]),
        ({"betas": [0.5]}, ["betas", "2 values"]),
        ({"pairs": {}}, ["pairs.train is missing"]),
        ({"precision": "float16"}, ["float16", "bfloat16"]),
        ({"stage": []}, ["no stage"]),
        ({"stage": [{"name": "a", "steps": 3}]}, ["'a'", "no loss"]),
        ({"stage": [{"steps": 3, "epochs": 1, "l2": 1}]}, ["steps = 3", "one of the two"]),
        ({"stage": [{"steps": 3, "l2": 1, "rate": 1}]}, ["stage[0].rate"]),
        ({"stage": {"steps": 3}}, ["stage", "a list"]),
        ({"stage": [{"steps": 3, "l2": 1, "penalty_at": "fake"}]}, ["penalty_at", "both"]),
        (
            {"stage": [{"steps": 3, "adversarial": "wasserstein", "penalty_at": "both"}]},
            ["penalty_at", "'both'", "'between'"],
        ),
        ({"score": {"pdf": 1.0}}, ["[score]", "no stage is scored"]),
        ({"generator": 3}, ["generator is 3", "a table"]),
        ({"checkpoints": {"keep": 1}}, ["checkpoints.keep is 1"]),
    ],
)
def test_bad_settings_are_named(change, words):
    with pytest.raises(InputError) as error:
        build(DisplacementConfiguration, {**MINIMAL, **change})
    for word in words:
        assert word in str(error.value)


def test_files_that_are_no_toml(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("run = ")
    with pytest.raises(InputError, match="no TOML"):
        read_toml(tmp_path / "bad.toml")
