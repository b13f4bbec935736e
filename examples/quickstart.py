"""Compare a super-resolved catalogue with its low-resolution snapshot, by nbodykit.

    mpirun -n 2 python examples/quickstart.py LR_SNAPSHOT SR_CATALOGUE FIGURE [HR_SNAPSHOT]

Prints their power spectra and counts of FOF halos, and draws their density fields; beside those of the
HR simulation of the same phases, where there is one.
"""

import sys

import matplotlib
import numpy as np
from nbodykit.lab import FOF, BigFileCatalog, FFTPower

from nbodykit_sr import open_snapshot
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.atomic import save_figure
from nbodykit_sr.io.preflight import FIGURE, prepare_output

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

SMALLEST_HALO = 32  # [particles]
THRESHOLDS = 10 ** np.arange(10.5, 13.1, 0.5)  # [Msun/h]


def side(catalogue):
    """Particles on a side of the box."""
    return round(catalogue.csize ** (1 / 3))


def power(catalogue, edges, Nmesh):
    """P(k) [(Mpc/h)^3] between the wavenumbers `edges` [h/Mpc], shot noise kept."""
    mesh = catalogue.to_mesh(Nmesh=Nmesh, resampler="cic", compensated=True, interlaced=True)
    fine = FFTPower(mesh, mode="1d").power
    weights = np.nan_to_num(fine["modes"])
    modes, _ = np.histogram(fine["k"], edges, weights=weights)
    total, _ = np.histogram(fine["k"], edges, weights=weights * np.nan_to_num(fine["power"].real))
    return total / modes


def halo_masses(catalogue):
    """Masses [Msun/h] of the FOF halos of at least `SMALLEST_HALO` particles."""
    halos = FOF(catalogue, linking_length=0.2, nmin=SMALLEST_HALO - 1).find_features()
    lengths = np.concatenate(catalogue.comm.allgather(halos["Length"].compute()))
    particle = catalogue.attrs["ParticleMass"] * 1e10
    return lengths[1:] * particle  # the first entry counts the particles in no halo


def slab(catalogue, Nmesh, depth):
    """Mean density of the slab z < `depth` [Mpc/h] over the mean, (Nmesh, Nmesh)."""
    thin = catalogue[catalogue["Position"][:, 2] < depth]
    projected = thin.to_mesh(Nmesh=Nmesh, resampler="cic").preview(axes=(0, 1))
    return projected / projected.mean()


def draw(path, maps, BoxSize, depth):
    """Density fields side by side, on one colour scale."""
    figure, axes = plt.subplots(1, len(maps), figsize=(5 * len(maps), 5.4), layout="constrained")
    for ax, (title, density) in zip(axes, maps.items(), strict=True):
        image = ax.imshow(
            np.log10(np.maximum(density.T, 1e-3)),
            origin="lower",
            extent=(0, BoxSize, 0, BoxSize),
            cmap="magma",
            vmin=-1,
            vmax=1.5,
            interpolation="nearest",
        )
        ax.set(title=title, xticks=[], yticks=[])
        length = 10.0 ** np.floor(np.log10(BoxSize / 2))
        ax.plot([0.05 * BoxSize, 0.05 * BoxSize + length], [0.06 * BoxSize] * 2, "w", lw=3)
        ax.text(0.05 * BoxSize, 0.08 * BoxSize, f"{length:g} Mpc/h", color="w")
    label = rf"$\log_{{10}}(\rho / \bar\rho)$, mean of a slab of {depth:.3g} Mpc/h"
    figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.5, pad=0.02, label=label)
    save_figure(figure, path)


def main(low_path, high_path, figure_path, true_path=None):
    low = open_snapshot(low_path)
    inputs = [path for path in (low_path, high_path, true_path) if path]
    prepare_output(figure_path, low.comm, FIGURE, overwrite=True, inputs=inputs)
    catalogues = {"LR": low, "SR": BigFileCatalog(high_path, comm=low.comm)}
    if true_path:
        catalogues["HR"] = open_snapshot(true_path)
    BoxSize = low.attrs["BoxSize"][0]
    finest = side(catalogues["SR"])

    # octaves of wavenumber [h/Mpc] up to the Nyquist wavenumber of the SR particles' lattice
    edges = 2 * np.pi / BoxSize * 2.0 ** np.arange(np.log2(finest))
    nyquist = np.pi * side(low) / BoxSize
    spectra = [power(one, edges, 2 * finest) for one in catalogues.values()]
    masses = [halo_masses(one) for one in catalogues.values()]
    depth = BoxSize / 5
    maps = {
        f"{name}, {side(one)}$^3$ particles": slab(one, side(one), depth)
        for name, one in catalogues.items()
    }
    if low.comm.rank > 0:
        return

    names = "".join(f"{name:>12}" for name in catalogues)
    print(f"\nP(k) [(Mpc/h)^3]\n   k [h/Mpc]{names}")
    for lower, upper, *powers in zip(edges[:-1], edges[1:], *spectra, strict=True):
        shown = [f"{p:12.4g}" for p in powers]
        if upper > 1.01 * nyquist:  # LR has no such modes
            shown[0] = f"{'-':>12}"
        print(f"{lower:6.2f}-{upper:5.2f}{''.join(shown)}")
    print(f"\nFOF halos (b = 0.2) of at least {SMALLEST_HALO} particles\n  M > [Msun/h]{names}")
    for threshold in THRESHOLDS:
        counts = [f"{np.count_nonzero(mass > threshold):12d}" for mass in masses]
        print(f"{threshold:14.2e}{''.join(counts)}")
    draw(figure_path, maps, BoxSize, depth)
    print(f"\nDensity fields: {figure_path}")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit(f"quickstart: {error}")
