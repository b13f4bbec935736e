"""Pages of the site that are made from their sources: models, commands, settings and benchmarks.

`conf.py` has them written into `reference/made`, which git ignores, before Sphinx reads it.
"""

import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
from typing import get_args, get_origin

from facts import ROOT, cards, caution, results, table
from pydantic import BaseModel

from nbodykit_sr.__main__ import COMMANDS
from nbodykit_sr.commands import train
from nbodykit_sr.models.card_summary import REPORTS


def write(folder):
    """Write all pages into `folder`."""
    pages = {f"model-{card.name}": model(card) for card in cards()}
    pages |= {f"command-{name}": command(name) for name in COMMANDS}
    pages |= {f"settings-{name.replace(' ', '-')}": system(name) for name in train.SYSTEMS}
    pages |= {"benchmarks": benchmarks()}
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:  # what did not change is not built again
            path.write_text(text)


def words(value):
    """A value of a card in words."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def escaped(text):
    """Text none of which is markup."""
    return text.replace("<", "\\<").replace("|", "\\|").replace("*", "\\*")


def model(card):
    """All that a card says."""
    seen = card.displacement_range
    facts = {
        "network": f"{card.network}, factor {card.factor} on a side, channels: {card.channels}",
        "for": card.validity,
        "Omega_m of its units": card.Omega_m or "the snapshot's",
        "displacements seen": f"up to {seen:.3g} LR cells" if seen else "not recorded",
        "trained on": card.simulation,
        "licence": card.licence,
    }
    text = [f"# {card.name}\n"]
    if card.caution:
        text.append(f":::{{warning}}\n{caution(card).capitalize()}.\n:::\n")
    notes = str(card.notes).removeprefix(card.caution).strip()
    text += [table(["", ""], facts.items()), escaped(notes) + "\n", "## What was measured\n"]
    text += measured(card.evaluation)
    text += ["## How it was trained\n"]
    plain = {key: value for key, value in card.training.items() if isinstance(value, str)}
    text += [f"**{key.capitalize()}**: {escaped(value)}.\n" for key, value in plain.items()]
    rest = {key: value for key, value in card.training.items() if key not in plain}
    settings = f"```json\n{json.dumps(rest, indent=1)}\n```"
    text += [f"<details><summary>All settings</summary>\n\n{settings}\n\n</details>\n"]
    return "\n".join(text)


def measured(evaluation, level=3):
    """The measurements in a card, table by table."""
    rows = [[n, words(value)] for n, value in evaluation.items() if not isinstance(value, dict)]
    text = [table(["quantity", "value"], rows)] if rows else []
    for name, part in evaluation.items():
        if isinstance(part, dict):
            if name == REPORTS:
                title = "Against HR of boxes that were not trained on, by `validate`"
            else:
                title = name if name.startswith("z =") else escaped(name[:1].upper() + name[1:])
            text.append(f"{'#' * level} {title}\n")
            text += report(part) if "verdicts" in part else measured(part, level + 1)
    return text


def report(part):
    """What `validate` found at one redshift: verdicts, and single numbers."""
    size = f"{part['BoxSize']:g} Mpc/h, {part['particles']} particles"
    rows = [
        [
            one["title"],
            one["reach"]["0.1"]["text"],
            one["reach"]["0.25"]["text"],
            one["worst"]["text"],
        ]
        for one in part["verdicts"].values()
    ]
    return [
        f"HR: {words(part['boxes'])}; SR catalogues: {part['catalogues']}, each {size}.\n",
        table(["", "within 10 % of HR", "within 25 %", "largest deviation"], rows),
        table(["quantity", "value"], part["summary"].items()),
    ]


def command(name):
    """What a command's parser says of it."""
    done = subprocess.run(
        [sys.executable, "-m", "nbodykit_sr", name, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "92"},
    )
    shown = done.stdout.replace("python -m nbodykit_sr", "nbodykit-sr")
    return f"# {name}\n\n```text\n{shown}```\n"


def system(name):
    """The settings of a training system, table by table."""
    path, _ = train.SYSTEMS[name]
    configuration = pkgutil.resolve_name(f"nbodykit_sr.{path}")
    first, *tables = sections(configuration)
    text = [f'# `system = "{name}"`\n', f"{configuration.__doc__}\n", first[1]]
    return "\n".join(text + [f"## {title}\n\n{rows}" for title, rows in tables])


def sections(kind, title=""):
    """The (title, table) of a configuration and of each table within it."""
    rows, below = [], []
    bases = [base for base in kind.__mro__ if issubclass(base, BaseModel)]
    for name, entry in kind.model_fields.items():
        many = get_origin(entry.annotation) is tuple
        inner = get_args(entry.annotation)[0] if many else entry.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            below += sections(inner, f"[[{name}]]" if many else f"[{name}]")
            continue
        shown = "needed" if entry.is_required() else f"`{json.dumps(entry.default)}`"
        fields = [base.model_fields[name] for base in bases if name in base.model_fields]
        said = next(field.description for field in fields if field.description)
        rows.append([f"`{name}`", shown, escaped(said.replace("\n", " "))])
    return [(title, table(["setting", "default", "what it is"], rows)), *below]


def benchmarks():
    """The benchmark results as their own report shows them."""
    path = ROOT / "benchmarks" / "run.py"
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("benchmarks_run", path)
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    text = ["# Benchmarks\n", (path.parent / "README.md").read_text().split("\n", 1)[1]]
    for one in results().values():
        text += [f"## On {one['machine']['processor']}\n", run.report(one)]
    return "\n".join(text)
