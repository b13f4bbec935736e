"""Draw explanation/phases.png: one halo in HR, super-resolved with HR's phases, and with drawn ones.

    python examples/make_pairs.py SIMS --seeds 181210 --redshifts 2
    python benchmarks/phases.py SIMS/181210 --redshift 2

The halo is the fifth largest of HR; the panels show the particles within 0.75 Mpc/h of its place.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nbodykit_sr import SRCatalog, open_snapshot
from nbodykit_sr.diagnostics.groups import find_groups

FIGURE = Path(__file__).parents[1] / "docs" / "explanation" / "phases.png"
HALO, HALF = 5, 0.75  # its rank by mass; half the width of a panel [Mpc/h]


def about(catalogue, centre):
    """Positions from a place, (n, 3) [Mpc/h], of the particles in the panel's cube about it."""
    box = np.ravel(catalogue.attrs["BoxSize"])[0]
    away = catalogue["Position"].compute() - centre
    away -= box * np.rint(away / box)
    return away[np.abs(away).max(axis=1) < HALF]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("box", type=Path, help="folder of a seed of make_pairs.py")
    parser.add_argument("--redshift", default="2")
    options = parser.parse_args()
    low, hr = (
        open_snapshot(str(options.box / f"{kind}_z{options.redshift}")) for kind in ("LR", "HR")
    )
    given = {"model": "phases", "power": str(options.box / "power.txt")}
    own = {"phases": str(options.box / "HR_IC")}
    catalogues = {
        "HR": hr,
        "SR with HR's phases": SRCatalog(low, seed=1, **own, **given),
        "SR with drawn phases": SRCatalog(low, seed=1, **given),
        "SR with others": SRCatalog(low, seed=2, **given),
    }
    centre = find_groups(hr)[0]["Center"][HALO - 1]
    figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), sharex=True, sharey=True)
    for panel, (name, catalogue) in zip(axes, catalogues.items()):
        panel.plot(
            *about(catalogue, centre)[:, :2].T, ".", ms=1, color="C3" if name == "HR" else "C0"
        )
        panel.set(title=name, xlabel="x [Mpc/h]", aspect="equal")
    axes[0].set(xlim=(-HALF, HALF), ylim=(-HALF, HALF), ylabel="y [Mpc/h]")
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=100)


if __name__ == "__main__":
    main()
