"""Compare an emulated density with the HR run that it stands for.

    mpirun -n 2 python examples/density_compare.py triplets 101 WEIGHTS FIGURE

takes ``triplets/101-LR``, ``-initial`` and ``-HR`` of density_triplet.py; prints and draws the
transfer function sqrt(P / P_HR) and the cross-correlation with HR of the emulated density, of the
LR density upsampled to the nearest cell, and the transfer function of the LR density itself.
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import numpy as np
from mpi4py import MPI

from nbodykit_sr.commands.emulate import open_source
from nbodykit_sr.density.mesh import SRMesh
from nbodykit_sr.density.painting import LR_ORIGIN, paint
from nbodykit_sr.diagnostics.power import comparison, power_spectrum
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.atomic import save_figure
from nbodykit_sr.io.preflight import FIGURE, prepare_output

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

BANDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2)  # [h/Mpc]


def nearest(field, pm):
    """A field on a mesh `pm` twice as fine, each cell that of the coarse one it lies in."""
    fine = pm.create(type="real")
    cells = np.indices(tuple(fine.shape)).reshape(3, -1).T + fine.start
    points = cells // 2 * (field.BoxSize / field.Nmesh)
    layout = field.pm.decompose(points, smoothing=1)
    values = field.readout(layout.exchange(points), resampler="nnb")
    fine[...] = layout.gather(values, mode="any").reshape(fine.shape)
    return fine


def spectra(sr, lr, hr):
    """Transfer functions and correlations against HR, columns by name, up to HR's Nyquist."""
    Nmesh = int(sr.Nmesh[0])
    truth = paint(hr, Nmesh)
    emulated = comparison(sr, truth)
    coarse = paint(lr, Nmesh // 2, LR_ORIGIN)
    upsampled = comparison(nearest(coarse, sr.pm), truth)
    own = power_spectrum(coarse)
    lr_power = np.full(len(emulated["k"]), np.nan)
    lr_power[: len(own["k"])] = own["power"]
    return {
        "k": emulated["k"],
        "SR": emulated["transfer"],
        "nearest": upsampled["transfer"],
        "LR": np.sqrt(lr_power / power_spectrum(truth)["power"]),
        "r SR": emulated["correlation"],
        "r nearest": upsampled["correlation"],
    }


def draw(columns, half, path):
    """Transfer functions and correlations over k."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name in ("SR", "nearest", "LR"):
        axes[0].plot(columns["k"], columns[name], label=name)
    for name in ("r SR", "r nearest"):
        axes[1].plot(columns["k"], columns[name], label=name)
    for ax, title in zip(axes, ("transfer function", "correlation with HR"), strict=True):
        ax.axvline(half, color="0.7", lw=0.8)
        ax.axhline(1, color="0.7", lw=0.8)
        ax.set(xlabel="k [h/Mpc]", ylabel=title, xscale="log", ylim=(0, 1.3))
        ax.legend(fontsize=8)
    save_figure(figure, path)


def main(argv=None, comm=MPI.COMM_WORLD):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of density_triplet.py")
    parser.add_argument("seed", type=int, help="a held-out one")
    parser.add_argument("model", help="weights, or 'shipped'")
    parser.add_argument("figure", type=Path)
    args = parser.parse_args(argv)
    inputs = [str(args.folder / f"{args.seed}-{kind}") for kind in ("LR", "initial", "HR")]
    prepare_output(args.figure, comm, FIGURE, overwrite=True, inputs=inputs)
    lr, initial, hr = (open_source(path, comm) for path in inputs)
    mesh = SRMesh(lr, initial, model=None if args.model == "shipped" else args.model)
    sr = mesh.compute()
    columns = spectra(sr, lr, hr)
    half = np.pi * sr.Nmesh[0] / sr.BoxSize[0] / 2
    if comm.rank == 0:
        names = [name for name in columns if name != "k"]
        print("k [h/Mpc]  " + "  ".join(f"{name:>9s}" for name in names))
        for edge in BANDS:
            row = np.argmin(abs(columns["k"] - edge))
            numbers = "  ".join(f"{columns[name][row]:9.3f}" for name in names)
            print(f"{columns['k'][row]:9.2f}  {numbers}")
        inside = columns["k"] <= half
        for name in ("SR", "nearest", "LR"):
            worst = np.nanmax(abs(columns[name][inside] - 1))
            print(f"{name}: transfer function within {worst:.1%} of 1 to k = {half:.2f} h/Mpc")
        print(f"mean density before it was normalised: {sr.attrs['SRMean']:.4f}")
        draw(columns, half, args.figure)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        if MPI.COMM_WORLD.rank == 0:
            print(f"density_compare: {error}", file=sys.stderr)
        sys.exit(2)
