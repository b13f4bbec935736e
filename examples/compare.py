"""Compare super-resolved catalogues with the HR snapshot that they stand for.

    mpirun -n 2 python examples/compare.py HR SR [SR ...]

Prints, as a markdown table, for each catalogue and in octaves of k: the power over that of HR and
the cross-correlation with it; |log10 P / P_HR| averaged over the shells of 2 < k < 8 h/Mpc, and the
largest P / P_HR of a shell; and the numbers of friends-of-friends halos (b = 0.2).
"""

import sys
from pathlib import Path

import numpy as np

from nbodykit_sr import open_snapshot
from nbodykit_sr.diagnostics import comparison, complex_field, find_halos, power_spectrum

OCTAVES = np.array([0.25, 1, 2, 4, 8, 16])  # [h/Mpc]; the first is two, for it has few modes
SMALLEST = np.array([32, 100, 300, 1000])  # halos [particles]


def octaves(k, values):
    """Sums of the values of shells in octaves of k."""
    return np.histogram(k, OCTAVES, weights=values)[0]


def compare(source, reference, weight):
    """P / P_ref and cross-correlation in octaves, mean |log10 P / P_ref|, largest P / P_ref.

    `weight` is the summed power of the reference in each shell.
    """
    shells = comparison(source, reference)
    k, ratio = shells["k"], shells["ratio"]
    one, other = octaves(k, weight), octaves(k, weight * ratio)
    cross = octaves(k, weight * np.sqrt(ratio) * shells["correlation"])
    with np.errstate(divide="ignore", invalid="ignore"):
        nonlinear = (k > 2) & (k < 8)
        error = np.abs(np.log10(ratio[nonlinear])).mean()
        return other / one, cross / np.sqrt(one * other), error, ratio[k < OCTAVES[-1]].max()


def cells(values, digits=2):
    return " ".join(f"{value:.{digits}f}" for value in values)


def main(hr_path, *paths):
    hr = open_snapshot(hr_path)
    Nmesh = 2 * round(hr.csize ** (1 / 3))
    reference = complex_field(hr, Nmesh)
    spectrum = power_spectrum(reference)
    weight = spectrum["modes"] * spectrum["power"]

    def halos(catalogue):
        length = find_halos(catalogue, nmin=SMALLEST[0]).length
        return cells([(length >= least).sum() for least in SMALLEST], 0)

    spans = ", ".join(f"{low:g}-{high:g}" for low, high in zip(OCTAVES[:-1], OCTAVES[1:]))
    least = ", ".join(map(str, SMALLEST))
    power = f"P / P_HR at k = {spans} h/Mpc"
    counts = f"halos of at least {least} particles"
    rows = [
        ["", power, "cross-correlation", "mean abs log10", "largest", counts],
        ["---"] * 6,
        [Path(hr_path).name, "", "", "", "", halos(hr)],
    ]
    for path in paths:
        catalogue = open_snapshot(path)
        power, correlation, error, largest = compare(
            complex_field(catalogue, Nmesh), reference, weight
        )
        figures = cells(power), cells(correlation), cells([error]), cells([largest])
        rows.append([Path(path).name, *figures, halos(catalogue)])
    if hr.comm.rank == 0:
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
