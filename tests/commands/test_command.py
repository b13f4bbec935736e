"""The one command: what it offers, what its help shows, and that errors name it as it was typed."""

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mpi4py import MPI

from nbodykit_sr import __main__ as program
from nbodykit_sr.commands.command import enter, typed
from nbodykit_sr.errors import InputError
from nbodykit_sr.models.card import read_card
from nbodykit_sr.models.card_summary import card_rows, summary
from nbodykit_sr.weights import shipped


def said(capsys, name, *arguments):
    """Output, errors and status of a command run in this process."""
    run = pkgutil.resolve_name(f"nbodykit_sr.commands.{program.COMMANDS[name][0]}")
    with pytest.raises(SystemExit) as stop:
        enter(run, name, MPI.COMM_SELF, [str(a) for a in arguments])
    return *capsys.readouterr(), stop.value.code


@pytest.mark.parametrize("name", program.COMMANDS)
def test_help_groups_options_and_shows_an_example_that_parses(capsys, name):
    out, err, status = said(capsys, name, "--help")
    assert status == 0 and err == ""
    assert f"usage: nbodykit-sr {name}" in out
    assert f"example:\n  nbodykit-sr {name}" in out
    headings = [line[:-1] for line in out.splitlines() if line.endswith(":") and line[0] != " "]
    if name not in ("models", "info"):
        assert "input" in headings and "positional arguments" not in headings


def test_overview_names_every_command(capsys):
    assert program.main([], MPI.COMM_SELF) == program.main(["--help"], MPI.COMM_SELF) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in program.COMMANDS)


def test_every_command_has_its_page():
    pages = (Path(__file__).parents[2] / "docs" / "reference" / "commands.md").read_text()
    assert all(f"made/command-{name}\n" in pages for name in program.COMMANDS)


def test_a_slip_of_the_pen_is_put_right():
    with pytest.raises(InputError, match="did you mean generate?"):
        program.main(["genrate"], MPI.COMM_SELF)
    with pytest.raises(InputError, match="there are generate, .*info"):
        program.main(["xyz"], MPI.COMM_SELF)


@pytest.mark.parametrize(
    "program, name, words",
    [
        ("/usr/bin/nbodykit-sr", "verify", "nbodykit-sr verify"),
        ("/lib/nbodykit_sr/__main__.py", "verify", "python -m nbodykit_sr verify"),
        ("/lib/nbodykit_sr/generate.py", "generate", "python -m nbodykit_sr.generate"),
        ("/lib/nbodykit_sr/__main__.py", "", "python -m nbodykit_sr"),
    ],
)
def test_a_command_is_called_what_the_user_typed(monkeypatch, program, name, words):
    monkeypatch.setattr(sys, "argv", [program])
    assert typed(name) == words


def test_errors_name_it_in_a_process_of_its_own():
    done = subprocess.run(
        [sys.executable, "-m", "nbodykit_sr.generate"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("python -m nbodykit_sr.generate: error: the following arguments")
    assert done.stderr.count("\n") == 1


def test_models_tells_what_the_cards_say(capsys):
    out, _, _ = said(capsys, "models")
    parts = dict(part.split("\n", 1) for part in re.split(r"\n(?=\S)", out))
    assert list(parts) == [card.name for card in map(read_card, shipped())]
    for card in map(read_card, shipped()):
        assert summary(card)
        for what, value in card_rows(card).items():
            assert not value or f"    {what}: {value}" in parts[card.name]
    out, _, _ = said(capsys, "models", "phases")
    assert read_card(next(p for p in shipped() if p.stem == "phases")).notes in out
    _, err, status = said(capsys, "models", "z9")
    assert status == 2 and "phases" in err


@pytest.mark.mpi
def test_info_tells_ranks_and_versions(comm, capsys):
    from nbodykit_sr.commands.about import info

    info([], comm)
    out = capsys.readouterr().out
    if comm.rank > 0:
        assert out == ""
        return
    told = dict(line.split(maxsplit=1) for line in out.splitlines() if line[0] != " ")
    assert told["ranks"].startswith(f"{comm.size} on 1 node")
    assert told["nbodykit"] and Path(told["weights"]).is_dir()
    assert told["nbodykit_sr"].endswith(f", {Path(told['weights']).parent}")
