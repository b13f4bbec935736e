"""Compare a super-resolved catalogue with its low-resolution snapshot, by nbodykit.

    mpirun -n 2 python examples/quickstart.py LR_SNAPSHOT SR_CATALOGUE FIGURE

Prints the power spectra of both and their counts of FOF halos, and draws their density fields.
"""

import sys

import matplotlib
import numpy as np
from nbodykit.lab import FOF, BigFileCatalog, FFTPower

from nbodykit_sr import open_snapshot

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

CRITICAL_DENSITY = 2.7754e11  # [h^2 Msun / Mpc^3]
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
    volume = np.prod(catalogue.attrs["BoxSize"])
    particle = np.ravel(catalogue.attrs["Omega0"])[0] * CRITICAL_DENSITY * volume / catalogue.csize
    return lengths[1:] * particle  # the first entry counts the particles in no halo


def slab(catalogue, Nmesh, depth):
    """Mean density of the slab z < `depth` [Mpc/h] over the mean, (Nmesh, Nmesh)."""
    thin = catalogue[catalogue["Position"][:, 2] < depth]
    projected = thin.to_mesh(Nmesh=Nmesh, resampler="cic").preview(axes=(0, 1))
    return projected / projected.mean()


def draw(path, maps, BoxSize, depth):
    """Density fields side by side, on one colour scale."""
    figure, axes = plt.subplots(1, len(maps), figsize=(10, 5.4), layout="constrained")
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
    figure.savefig(path, dpi=150)


def main(low_path, high_path, figure_path):
    low = open_snapshot(low_path)
    high = BigFileCatalog(high_path, comm=low.comm)
    BoxSize = low.attrs["BoxSize"][0]
    Nmesh = 2 * side(high)

    # octaves of wavenumber [h/Mpc] up to the Nyquist wavenumber of the SR particles' lattice
    edges = 2 * np.pi / BoxSize * 2.0 ** np.arange(np.log2(side(high)))
    nyquist = np.pi * side(low) / BoxSize
    spectra = power(low, edges, Nmesh), power(high, edges, Nmesh)
    masses = halo_masses(low), halo_masses(high)
    depth = BoxSize / 5
    maps = {
        f"LR, {side(low)}$^3$ particles": slab(low, side(low), depth),
        f"SR, {side(high)}$^3$ particles": slab(high, side(high), depth),
    }
    if low.comm.rank > 0:
        return

    print("\nP(k) [(Mpc/h)^3]\n   k [h/Mpc]          LR          SR")
    for lower, upper, p_low, p_high in zip(edges[:-1], edges[1:], *spectra, strict=True):
        shown = f"{p_low:12.4g}" if upper < 1.01 * nyquist else f"{'-':>12}"  # LR has no such modes
        print(f"{lower:6.2f}-{upper:5.2f}{shown}{p_high:12.4g}")
    print(
        f"\nFOF halos (b = 0.2) of at least {SMALLEST_HALO} particles\n  M > [Msun/h]  LR      SR"
    )
    for threshold in THRESHOLDS:
        counts = [np.count_nonzero(mass > threshold) for mass in masses]
        print(f"{threshold:13.2e}{counts[0]:6d}{counts[1]:8d}")
    draw(figure_path, maps, BoxSize, depth)
    print(f"\nDensity fields: {figure_path}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
