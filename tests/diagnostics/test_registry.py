"""A new statistic as CONTRIBUTING says: one class in one file, and one line in the registry."""

import json
import subprocess
import sys

import numpy as np
import pytest

from nbodykit_sr.commands import validate
from nbodykit_sr.diagnostics import Statistic, complex_field, drawing, registry, top_hat
from nbodykit_sr.diagnostics.diagnostic import Criterion, Diagnostic, Ratio, row
from nbodykit_sr.io.snapshot import open_snapshot

RADII = np.array([2.0, 4.0, 8.0])


class Variance(Diagnostic):
    """Variance of the density in spheres."""

    part = "variance"
    name, title = "variance", "Variance"
    shows = ("variance",)
    step = "variance"
    ratios = {"variance ratio": Ratio("variance", ["variance"], "radius")}
    criteria = {
        "variance": Criterion(
            "Variance of density", "variance ratio", "variance", "radius", "Mpc/h", downwards=True
        )
    }

    def measure(self, one, results):
        spheres = [(top_hat(one.delta, radius) - 1) ** 2 for radius in RADII]
        variance = np.array([each.cmean() for each in spheres])
        error = variance * np.sqrt(2 * RADII**3 / results.settings.zooms[0] ** 3)
        columns = {"radius": RADII, "variance": variance}
        return {
            "variance": Statistic("variance", columns, {"radius": "Mpc/h"}, {"variance": error})
        }

    def rows(self, results):
        values = [one["variance"][-1] for one in results["SR"]["variance"]]
        return [row("Variance in spheres of 8 Mpc/h", values)]

    def caption(self, results):
        return "Variance of the density in spheres."

    def draw(self, results):
        names, labels = ("variance", "variance ratio", "radius", "variance"), ("radius", "variance")
        return drawing.with_ratio(results, *names, labels, drawing.points)


@pytest.mark.mpi
def test_a_new_statistic_is_one_class_and_one_line(comm, data, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "DIAGNOSTICS", [*registry.DIAGNOSTICS, Variance()])
    limits, out = tmp_path / "limits.toml", tmp_path / "report"
    if comm.rank == 0:
        limits.write_text("[variance]\nwithin = 0.25\nto = 2\n")
    comm.barrier()
    sr, hr = data / "lr16_25_z2_asis", data / "lr16_25_z2"
    argv = ["--sr", sr, "--hr", hr, "--out", out, "--fresh", "--quiet", "--require", limits]
    assert validate.main([*map(str, argv), "--only", "variance"], comm) == 0
    field = complex_field(open_snapshot(sr, comm), 16)
    expected = ((top_hat(field, 8.0) - 1) ** 2).cmean()
    if comm.rank > 0:
        return
    document = json.loads((out / "report.json").read_text())
    page = (out / "report.html").read_text()
    (measured,) = document["statistics"]["SR"]["variance"]
    assert measured["columns"]["variance"][-1] == pytest.approx(expected)
    verdict = document["verdicts"]["variance"]
    assert verdict["reach"]["0.1"]["reach"] == 2 and verdict["title"] in page
    assert document["summary"][-1]["value"] in page
    assert "Variance of the density in spheres.</figcaption>" in page
    assert (out / "figures" / "variance.png").stat().st_size > 1000


def test_every_diagnostic_says_what_it_has():
    """Parts for --only, verdicts with distinct names, ratios of what is measured."""
    many = registry.DIAGNOSTICS
    assert set(registry.QUICK) < set(registry.parts()) and len(many) == 14
    assert len(registry.criteria()) == sum(len(one.criteria) for one in many)
    for one in many:
        assert one.part and one.name and one.title and one.shows and type(one).__doc__
        for ratio in one.ratios.values():
            assert ratio.statistic in {*one.shows, "bispectrum equilateral"}


def test_measuring_needs_no_matplotlib():
    """It is of the extra `report`: halos and power spectra are there without."""
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['colossus'] = None; "
        "import nbodykit_sr.diagnostics, nbodykit_sr.commands.halos"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
