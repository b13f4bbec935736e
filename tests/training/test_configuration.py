from pathlib import Path

import pytest

from nbodykit_sr.commands.train import configure
from nbodykit_sr.errors import InputError
from nbodykit_sr.training.configuration import build, plain, read_toml
from nbodykit_sr.training.displacement_configuration import DisplacementConfiguration

RECIPES = sorted((Path(__file__).parents[2] / "examples/recipes").glob("*.toml"))
MINIMAL = {"run": "x", "pairs": {"train": ["pair"]}}


def test_defaults_are_the_paper():
    c = build(DisplacementConfiguration, MINIMAL)
    first, second = c.stage
    assert (first.epochs, first.l2, first.adversarial) == (5, 1, "none")
    assert (second.epochs, second.l2, second.adversarial) == (150, 0, "wasserstein")
    assert (second.penalty, second.penalty_every, second.critic_steps) == (10, 16, 1)
    assert {s.learning_rate for s in c.stage} == {1e-5}
    assert c.betas == (0, 0.99)
    assert (c.sample.crop, c.generator.chan_base, c.generator.chan_min) == (14, 512, 64)
    assert (c.average, c.precision, first.statistics, second.statistics) == (0, "float32", 0, 0)


def test_configuration_survives_a_checkpoint():
    c = build(DisplacementConfiguration, {**MINIMAL, "stage": [{"steps": 3, "l2": 1}]})
    assert build(DisplacementConfiguration, plain(c)) == c


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_examples_are_configurations(path):
    """None of them sets more than a reader takes in."""
    table = read_toml(path)
    configuration, _ = configure(table)
    assert configuration.run and number(table) <= 35


def number(value):
    """Settings in a table."""
    if isinstance(value, dict):
        return sum(map(number, value.values()))
    return sum(map(number, value)) if isinstance(value, list) and isinstance(value[0], dict) else 1


@pytest.mark.parametrize(
    "change, words",
    [
        ({"generator": {"chan_bse": 3}}, ["generator.chan_bse", "did you mean 'chan_base'"]),
        ({"generator": {"gated": True}}, ["generator.gated", "set generator.convex"]),
        ({"bacth": 3}, ["bacth", "did you mean 'batch'"]),
        ({"batch": "four"}, ["batch is 'four'", "integer"]),
        ({"batch": True}, ["batch is True", "integer"]),
        ({"batch": 0}, ["batch is 0", "greater than 0"]),
        ({"betas": [0.5]}, ["betas[1] is missing"]),
        ({"seed": 1.5}, ["seed is 1.5", "integer"]),
        ({"average": float("nan")}, ["average is nan", "less than 1"]),
        ({"pairs": {}}, ["pairs.train is missing"]),
        ({"precision": "float16"}, ["float16", "bfloat16"]),
        ({"stage": []}, ["stage is []", "at least 1"]),
        ({"stage": [{"name": "a", "steps": 3}]}, ["'a'", "no loss"]),
        ({"stage": [{"steps": 3, "epochs": 1, "l2": 1}]}, ["steps = 3", "one of the two"]),
        ({"stage": [{"steps": 3, "l2": 1, "rate": 1}]}, ["stage[0].rate"]),
        ({"stage": {"steps": 3}}, ["stage is {", "array"]),
        ({"stage": [{"steps": 3, "adversarial": "both"}]}, ["stage[0].adversarial", "wasserstein"]),
        ({"stage": [{"name": "b", "steps": 3, "l2": 1, "warmup": 1}]}, ["'b'", "no critic"]),
        ({"stage": [{"steps": 3, "score": 1}], "score": {"meshes": 1}}, ["score.meshes is 1"]),
        ({"score": {"pdf": 1.0}}, ["[score]", "no stage is scored"]),
        ({"generator": 3}, ["generator is 3", "object"]),
        ({"checkpoints": {"keep": 1}}, ["checkpoints.keep is 1"]),
    ],
)
def test_bad_settings_are_named(change, words):
    with pytest.raises(InputError) as error:
        build(DisplacementConfiguration, {**MINIMAL, **change})
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_toml(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("run = ")
    with pytest.raises(InputError, match="no TOML"):
        read_toml(tmp_path / "bad.toml")
