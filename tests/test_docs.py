"""What README and site say: numbers from their sources, links that lead somewhere."""

import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import nbodykit_sr
from nbodykit_sr.models.card_summary import REPORTS, worth

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    if not {"_build", "made"} & set(path.parts)
)


@pytest.fixture
def facts(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    import facts

    yield facts
    del sys.modules["facts"]


def prose(text):
    """A page without code, equations and link targets."""
    return re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$|\]\([^)]*\)", "", text, flags=re.S)


def test_readme_is_one_screen_with_numbers_from_their_sources(facts):
    """The marked parts are what cards and benchmarks give; nothing measured stands outside them."""
    text = facts.README.read_text()
    assert len(text.splitlines()) <= 120
    assert text == facts.readme(text), "run python docs/facts.py"
    rest = text
    for name in facts.PARTS:
        assert f"<!-- {name} -->" in text
        rest = re.sub(f"<!-- {name} -->.*<!-- end {name} -->", "", rest, flags=re.S)
    assert re.findall(r"\d+\.\d+|\d+ ?%", prose(rest)) == ["3.11", "3.0"]  # Python, the licence


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for link in re.findall(
        r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    ):
        if "://" in link or "/made/" in link or link.startswith("made/"):
            continue  # the site's build looks at the pages that it makes
        assert (page.parent / link).exists(), f"{page}: {link}"


def test_models_are_told_as_their_cards_have_them(facts):
    """What a model is said to reach is what validate found in that band of k, as its card has it."""
    for card in facts.cards():
        assert f"`{card.name}`" in facts.models()
        if card.network == "density":
            continue
        reports = [
            one
            for one in card.evaluation[REPORTS].values()
            if one.get("phases") != "HR's" and one.get("factor", card.factor) == card.factor
        ]
        for reached, one in zip(worth(card)["power"], reports, strict=True):
            power = one["verdicts"]["power"]
            low = 2 * np.pi * round(one["particles"] ** (1 / 3)) / card.factor / one["BoxSize"]
            pairs = zip(power["x"], power["deviation"], strict=True)
            band = [1 + deviation for k, deviation in pairs if low <= k < 2 * low]
            assert min(band) < reached < max(band)


def test_galaxies_are_told_as_they_were_measured(facts):
    found = json.loads((ROOT / "benchmarks" / "hod.json").read_text())
    for name, box in found["boxes"].items():
        runs = [told["bands"][0] for which, told in box.items() if which.startswith("SR")]
        ratio = sum(runs) / len(runs) / box["HR"]["bands"][0]
        rows = [line.split(" | ") for line in facts.galaxies().splitlines() if name in line]
        cell = next(row[4] for row in rows if found["model"] in row[1])
        assert float(cell.split()[0]) == pytest.approx(ratio, abs=0.005)


def test_densities_are_told_as_they_were_measured(facts):
    found = json.loads((ROOT / "benchmarks" / "density.json").read_text())
    boxes = list(facts.cosmologies(found).values())[0]
    for name in ("network", "particles"):
        row = next(
            line for line in facts.densities().splitlines() if line.startswith(f"| {name} |")
        )
        mean = sum(box[name]["empty"] for box in boxes) / len(boxes)
        assert f"{mean:.3f} ±" in row


def test_python_interface_has_every_public_name():
    page = (DOCS / "reference" / "api.md").read_text()
    assert set(re.findall(r":: nbodykit_sr\.(\w+)$", page, re.M)) == set(nbodykit_sr.__all__) - {
        "__version__"
    }


def test_the_tables_of_promises_name_tests_that_exist():
    tests = ROOT / "tests"
    files = {path.name for path in tests.rglob("test_*.py")}
    known = {
        name
        for path in tests.rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    for name in re.findall(r"`(test_\w+)(\.py|\.\.\.)?`", (tests / "README.md").read_text()):
        word, ending = name
        if ending == ".py":
            assert word + ending in files, word
        else:
            assert any(test == word or ending and test.startswith(word) for test in known), word


def test_contributing_has_the_floors_of_the_contracts():
    """Its table and import-linter's layers name the same modules, and none stands lower in it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    contract = {
        name: depth for depth, line in enumerate(layers) for name in re.findall(r"\w+", line)
    }
    rows = [line.split("|") for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines()]
    floors = [re.findall(r"`(\w+)`", row[2]) for row in rows if len(row) == 5 and "`" in row[2]]
    assert sorted(sum(floors, [])) == sorted(contract.keys() - {"__main__", "version"})
    deepest = [max(contract[name] for name in floor) for floor in floors]
    assert deepest == sorted(deepest)
