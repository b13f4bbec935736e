"""Hold an emulated density against the HR run that it stands for.

    mpirun -n 2 python examples/density_compare.py triplets 101 FIGURE
    python examples/density_compare.py triplets 101 FIGURE --by particles --factor 2

takes ``triplets/101-LR``, ``-initial`` and ``-HR`` of density_triplet.py. For the emulated density and for
LR painted on HR's mesh it prints and draws the transfer function sqrt(P / P_HR) and the cross-correlation
with HR in bands that end at k, and prints, over HR's, bispectra (equilateral, and that of figure 5 of
Kodi Ramanah et al. 2020) and numbers of voids, and the share of empty cells.
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import numpy as np
from mpi4py import MPI

from nbodykit_sr.density.mesh import WAYS, SRMesh, open_source
from nbodykit_sr.density.painting import paint
from nbodykit_sr.diagnostics.bispectrum import angle_triangles, bispectrum, equilateral_triangles
from nbodykit_sr.diagnostics.power import comparison
from nbodykit_sr.diagnostics.voids import find_voids, void_radii, void_size_function
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.atomic import save_figure
from nbodykit_sr.io.preflight import FIGURE, prepare_output

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

BANDS = np.array([0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2])  # of k [h/Mpc]
EMPTY = 0.05  # 1 + delta below which a cell counts as empty
EDGES = np.logspace(-2, 2, 41)  # of 1 + delta
SIDES = (0.15, 0.25)  # of the triangles of the paper's figure 5 [h/Mpc]


def measure(field) -> dict:
    """The statistics of a density on its mesh that are compared by their ratios. Collective.

    Parameters
    ----------
    field : pmesh.pm.RealField
        1 + delta.

    Returns
    -------
    dict of str to list
        ``pdf``: part of the cells in each bin of `EDGES`; ``empty``: part of the cells below `EMPTY`;
        ``equilateral`` and ``angle``: bispectra [(Mpc/h)^6]; ``voids``: their number at each radius; and
        the abscissae ``k``, ``theta`` and ``radius``.
    """
    comm, box, Nmesh = field.pm.comm, float(field.BoxSize[0]), int(field.Nmesh[0])
    values, cells = np.asarray(field.value), float(Nmesh) ** 3
    modes, fundamental = field.r2c(), 2 * np.pi / box
    theta, paper = angle_triangles(*SIDES, fundamental)
    equal = equilateral_triangles(1.5 * fundamental, 0.99 * Nmesh / 3 * fundamental)
    sides, angles = bispectrum(modes, equal), bispectrum(modes, paper)
    voids = void_size_function(find_voids(modes, void_radii(box, Nmesh)))
    return {
        "pdf": (comm.allreduce(np.histogram(values, EDGES)[0]) / cells).tolist(),
        "empty": comm.allreduce(int((values < EMPTY).sum())) / cells,
        "k": sides["k1"].tolist(),
        "equilateral": sides["bispectrum"].tolist(),
        "theta": theta.tolist(),
        "angle": angles["bispectrum"].tolist(),
        "radius": voids["radius"].tolist(),
        "voids": voids["count"].tolist(),
    }


def phases(field, truth) -> dict:
    """Transfer function and correlation with HR, mode by mode, in `BANDS` of k. Collective."""
    shells = comparison(field, truth)
    band = np.digitize(shells["k"], BANDS) - 1
    inside = [(band == i) & (shells["modes"] > 0) for i in range(len(BANDS) - 1)]
    return {
        name: [float(np.average(shells[name][one], weights=shells["modes"][one])) for one in inside]
        for name in ("transfer", "correlation")
    }


def ratio(measured, truth, name) -> np.ndarray:
    """A statistic over HR's; NaN where HR has none."""
    one, other = (np.asarray(every[name], dtype="f8") for every in (measured, truth))
    return np.divide(one, other, out=np.full(other.shape, np.nan), where=other != 0)


def draw(densities, path):
    """Transfer functions and correlations with HR over k."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for ax, column in zip(axes, ("transfer", "correlation"), strict=True):
        for name in ("SR", "LR"):
            ax.plot((BANDS[1:] + BANDS[:-1]) / 2, densities[name][column], marker=".", label=name)
        ax.axhline(1, color="0.7", lw=0.8)
        ax.set(xlabel="k [h/Mpc]", ylabel=column, ylim=(0, 1.3))
        ax.legend(fontsize=8)
    save_figure(figure, path)


def told(densities) -> str:
    """What is printed of densities by name, HR's first."""
    truth = densities["HR"]
    lines = ["k [h/Mpc]".ljust(24) + "".join(f"{k:9.1f}" for k in BANDS[1:])]
    for name, one in densities.items():
        lines.append(f"{name}: {one['empty']:.3f} of the cells below 1 + delta = {EMPTY:g}")
        if name == "HR":
            continue
        for column in ("transfer", "correlation"):
            lines.append(f"{name} {column}".ljust(24) + "".join(f"{x:9.3f}" for x in one[column]))
        for column in ("equilateral", "angle", "voids"):
            numbers = " ".join(f"{x:.2f}" for x in ratio(one, truth, column))
            lines.append(f"{name}: {column} over HR's {numbers}")
        inside = np.array(one["transfer"])[BANDS[1:] < 0.81]
        worst = abs(inside - 1).max()
        lines.append(f"{name}: transfer function within {worst:.1%} of 1 to k = 0.8 h/Mpc")
    return "\n".join(lines)


def main(argv=None, comm=MPI.COMM_WORLD):
    """Emulate the density of one box, measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of density_triplet.py")
    parser.add_argument("seed", type=int, help="a held-out one")
    parser.add_argument("figure", type=Path)
    parser.add_argument("--by", choices=tuple(WAYS), default="network")
    parser.add_argument("--factor", type=int, help="of particles")
    parser.add_argument("--model", help="weights (what ships)")
    args = parser.parse_args(argv)
    inputs = [str(args.folder / f"{args.seed}-{kind}") for kind in ("LR", "initial", "HR")]
    prepare_output(args.figure, comm, FIGURE, overwrite=True, inputs=inputs)
    lr, initial, hr = (open_source(path, comm) for path in inputs)
    sr = SRMesh(lr, initial, model=args.model, by=args.by, factor=args.factor).compute()
    Nmesh = int(sr.Nmesh[0])
    fields = {"HR": paint(hr, Nmesh), "SR": sr, "LR": paint(lr, Nmesh)}
    densities = {name: measure(field) for name, field in fields.items()}
    for name in ("SR", "LR"):
        densities[name] |= phases(fields[name], fields["HR"])
    if comm.rank == 0:
        print(told(densities))
        print(f"mean density before it was normalised: {sr.attrs['SRMean']:.4f}")
        draw(densities, args.figure)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        if MPI.COMM_WORLD.rank == 0:
            print(f"density_compare: {error}", file=sys.stderr)
        sys.exit(2)
