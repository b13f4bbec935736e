"""The report: an HTML page of figures with captions, and all numbers as JSON."""

import base64
import io
import json
from datetime import datetime
from pathlib import Path

import jinja2
import matplotlib

from ..physics.universe import Universe
from ..provenance import NAMES, Provenance, versions
from . import registry
from .drawing import RC
from .results import PACKAGES
from .statistic import plain
from .verdicts import TOLERANCES, headline, verdicts

DPI = 150


def write_report(results, boxes, folder, command) -> None:
    """Write report.html, report.json and figures/ as PNG and PDF. Not collective.

    Parameters
    ----------
    results : Results
    boxes : list of dict of str to list of CatalogSource
    folder : str or Path
        Made if it is not there.
    command : str
        That makes this report again.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    described = [
        _describe(kind, one, number)
        for number, box in enumerate(boxes)
        for kind, many in box.items()
        for one in many
    ]
    found = verdicts(results)
    document = {
        "command": command,
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(PACKAGES),
        "catalogues": described,
        "verdicts": {name: one.to_dict() for name, one in found.items()},
        "summary": registry.rows(results),
        **results.to_dict(),
    }
    text = json.dumps(plain(document), indent=1, allow_nan=False)
    (folder / "report.json").write_text(text, encoding="utf-8")
    with matplotlib.rc_context(RC):
        reported = registry.reported(results)
        figures = [_figure(one, results, folder / "figures") for one in reported]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nbodykit_sr.diagnostics", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html")
    html = page.render(
        document=document,
        figures=figures,
        tolerances=TOLERANCES,
        headline=headline(found, TOLERANCES[1]),
    )
    (folder / "report.html").write_text(html, encoding="utf-8")


def _figure(diagnostic, results, folder) -> dict:
    """Draw the figure of a diagnostic to files; gives its entry of the page."""
    drawn, buffer = diagnostic.draw(results), io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=DPI)
    (folder / f"{diagnostic.name}.png").write_bytes(buffer.getvalue())
    drawn.set_layout_engine("none")  # it is laid out
    drawn.savefig(folder / f"{diagnostic.name}.pdf", dpi=DPI)
    return {
        "name": diagnostic.name,
        "title": diagnostic.title,
        "caption": diagnostic.caption(results),
        "data": base64.b64encode(buffer.getvalue()).decode(),
    }


def _describe(kind, catalog, box):
    """Kind, size and cosmology of a catalogue, and its provenance if known."""
    attrs, universe = catalog.attrs, Universe.of(catalog.attrs)
    provenance = Provenance.from_attrs(attrs)
    made = {name: getattr(provenance, n) for n, name in NAMES.items() if name in attrs}
    return plain(
        {
            "kind": kind,
            "box": box,
            "path": attrs.get("source", ""),
            "particles": catalog.csize,
            "BoxSize": universe.BoxSize,
            "redshift": universe.redshift,
            "Omega0": universe.Omega0,
            "made": made,
        }
    )
