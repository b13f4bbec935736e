"""The linear power spectrum of a snapshot's universe: from a file, from a cosmology, or from LR itself."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import InputError, agreement, one_line
from .universe import Universe

# Spectral index where nobody tells it
N_S = 0.97
# Fraction of matter in baryons where the header does not tell it
BARYONS = 0.16
# k of the tables made here [h/Mpc]
SMALLEST_K, LARGEST_K = 1e-4, 1e3
# A power spectrum today that any universe has: its sigma8 lies within
POSSIBLE = (0.2, 2.0)
# LR is held to be linear at wavenumbers below which the rms overdensity is less than this, or in
# its lowest shells
LINEAR, FEWEST = 0.5, 18
# How far displacements at these wavenumbers are from linear theory, in sigma8: 2.4% measured at z = 4
# in 100 Mpc/h, whose header leaves out the radiation that MP-Gadget counts
SYSTEMATIC = 0.03
# How far, in errors, a given sigma8 may be from that measured
DISAGREEMENT = 3.0


@dataclass(frozen=True, eq=False)
class LinearPower:
    """The linear power spectrum at z = 0, interpolated in log k and log P; a power law beyond."""

    k: np.ndarray  # (n,) [h/Mpc], ascending
    table: np.ndarray  # (n,) P(k) [(Mpc/h)^3]
    source: str  # origin of the table, in words for the provenance

    def __post_init__(self):
        k, table = self.k, self.table
        good = len(k) > 3 and (np.diff(k) > 0).all() and k[0] > 0
        if not (good and np.isfinite(table).all() and (table > 0).all()):
            raise InputError(
                f"the power spectrum {self.source} is no table of k > 0, ascending, with P > 0: columns "
                "k [h/Mpc] and P [(Mpc/h)^3] are needed"
            )

    def __call__(self, k) -> np.ndarray:
        """P(k) [(Mpc/h)^3] at z = 0; zero at k = 0."""
        x, y = np.log(self.k), np.log(self.table)
        with np.errstate(divide="ignore"):
            at = np.log(np.asarray(k, dtype="f8"))
        value = np.interp(at, x, y)
        low, high = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
        value = value + low * np.minimum(at - x[0], 0) + high * np.maximum(at - x[-1], 0)
        return np.where(np.isfinite(at), np.exp(value), 0.0)

    def variance(self, radius=None, kmax=np.inf) -> float:
        """Variance of the linear overdensity today, in spheres of `radius` [Mpc/h] or of all modes
        below `kmax` [h/Mpc]."""
        lnk = np.linspace(np.log(SMALLEST_K), np.log(min(kmax, LARGEST_K)), 2000)
        k = np.exp(lnk)
        window = 1.0
        if radius is not None:
            x = k * radius
            window = 3 * (np.sin(x) - x * np.cos(x)) / x**3
        return float(np.trapezoid(k**3 * self(k) * window**2, lnk) / (2 * np.pi**2))

    @property
    def sigma8(self) -> float:
        """Rms linear overdensity today in spheres of 8 Mpc/h."""
        return float(np.sqrt(self.variance(8.0)))

    def scaled(self, sigma8, source) -> "LinearPower":
        """The same shape with another amplitude."""
        return replace(self, table=self.table * (sigma8 / self.sigma8) ** 2, source=source)

    @classmethod
    def of(cls, universe: Universe, n_s=N_S, sigma8=None) -> "LinearPower":
        """The linear power spectrum of a universe, by CLASS; with sigma8 = 0.8 if it is not given.

        Omega0 is needed; h and OmegaBaryon are guessed where they are not known.
        """
        from nbodykit.cosmology import Cosmology
        from nbodykit.cosmology import LinearPower as ByClass

        baryons = universe.OmegaBaryon or BARYONS * universe.Omega0
        known = replace(universe, h=universe.h or 0.7, OmegaBaryon=baryons)
        k = np.geomspace(SMALLEST_K, LARGEST_K, 1000)
        try:
            table = ByClass(Cosmology(**known.boltzmann, n_s=n_s), 0.0)(k)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"CLASS finds no power spectrum of this universe ({one_line(error, 120)}): give a file of "
                "the power spectrum"
            ) from None
        power = cls(k, table, f"CLASS, n_s = {n_s:g}")
        sigma8 = 0.8 if sigma8 is None else sigma8
        return power.scaled(sigma8, f"CLASS, n_s = {n_s:g}, sigma8 = {sigma8:.4g}")

    @classmethod
    def read(cls, path, growth=None) -> "LinearPower":
        """Read a linear power spectrum from a file.

        Files may be MP-Gadget's inputspec and powerspectrum files, tables of N-GenIC, CAMB or CLASS, or
        any of two columns, k [h/Mpc] and P [(Mpc/h)^3] at z = 0. `growth` is D of a redshift, for files of
        another time. InputError if the file is unreadable, or no power spectrum of a possible universe.
        """
        k, table, redshift = _columns(Path(path))
        if redshift:
            table = table / growth(redshift) ** 2
        power = cls(k, table, str(path))
        # N-GenIC and MP-GenIC divide by (2 pi)^3
        for table in (power.table, power.table * (2 * np.pi) ** 3):
            found = replace(power, table=table)
            if POSSIBLE[0] <= found.sigma8 <= POSSIBLE[1]:
                return found
        raise InputError(
            f"the power spectrum {path} has sigma8 = {power.sigma8:.3g}: {POSSIBLE[0]:g} to "
            f"{POSSIBLE[1]:g} is possible; columns k [h/Mpc] and P [(Mpc/h)^3] at z = 0 are needed"
        )


def _columns(path):
    """k, P and the redshift of a table of the power spectrum."""
    try:
        text = path.read_text()
        lines = [line.split() for line in text.splitlines() if line.strip()]
        comments = [words for words in lines if words[0].startswith("#")]
        rows = [words for words in lines if not words[0].startswith("#")]
        redshift = None
        if not comments and len(rows[0]) < len(rows[1]):  # N-GenIC: z and D, then k and Delta^2
            redshift = float(rows.pop(0)[0])
        table = np.array([[float(word) for word in words] for words in rows])
        k, power = table[:, 0], table[:, 1]
        if redshift is not None and table.shape[1] > 2:
            power = power / (4 * np.pi * k**3)
        elif "P(z=0)" in text:  # MP-Gadget's power spectra
            power = table[:, 3]
        elif comments and _numbers(comments[0][1:]) == 2:  # MP-GenIC: # z D
            redshift = float(comments[0][1])
    except (OSError, ValueError, IndexError) as error:
        raise InputError(
            f"the power spectrum {path} cannot be read ({error}): a text file of columns k [h/Mpc] and "
            "P [(Mpc/h)^3] is needed"
        ) from None
    if (k < 0).any():  # logarithms of both
        k, power = 10**k, 10**power / (4 * np.pi * 10 ** (3 * k))
    return k, power, redshift


def _numbers(words):
    """How many words there are, if all are numbers; else 0."""
    try:
        return len([float(word) for word in words])
    except ValueError:
        return 0


def linear_power(particles, path=None, sigma8=None, n_s=None, force=False) -> LinearPower:
    """The linear power spectrum of a snapshot's universe. Collective.

    From a file, see `LinearPower.read`, or by CLASS with `sigma8` and `n_s`; without sigma8 the amplitude is
    measured from LR. With `force` a disagreement of LR and sigma8 is a warning, else an InputError on every
    rank.
    """
    comm, universe, power = particles.catalog.comm, particles.universe, None
    with agreement(comm):
        if comm.rank == 0:
            if path is not None:
                power = LinearPower.read(path, lambda z: replace(universe, a=1 / (1 + z)).growth)
            else:
                n_s = n_s or universe.n_s or N_S
                power = LinearPower.of(universe, n_s, sigma8 or universe.sigma8)
    power = comm.bcast(power)
    measured, error = measured_sigma8(particles, power)
    if path is None and not (sigma8 or universe.sigma8):
        source = f"sigma8 = {measured:.4g} +- {error:.2g} measured from LR, n_s = {n_s or N_S:g}"
        return power.scaled(float(f"{measured:.4g}"), source)
    apart = abs(measured - power.sigma8)
    with agreement(comm):
        if apart > DISAGREEMENT * error and not force:
            raise InputError(
                f"sigma8 is {power.sigma8:.4g} but LR's displacements have {measured:.3g} +- {error:.2g}: "
                "give the power spectrum that LR was started from, or force it"
            )
    return power


def measured_sigma8(particles, power) -> tuple[float, float]:
    """sigma8 of the power spectrum's shape with the amplitude of LR's displacements on linear
    scales, and its error. Collective.

    In linear theory |k . psi(k)|^2 = P(k); the displacement of a Lagrangian site follows that to
    smaller scales than the density does.
    """
    from pmesh.pm import ParticleMesh

    comm, lattice, universe = particles.catalog.comm, particles.lattice, particles.universe
    pm = ParticleMesh([lattice.Nmesh] * 3, lattice.BoxSize, dtype="f8", comm=comm, resampler="nnb")
    nodes = particles.site * lattice.cell
    layout = pm.decompose(nodes)
    divergence = 0.0
    for axis in range(3):
        field = pm.paint(
            layout.exchange(nodes), mass=layout.exchange(particles.displacement[:, axis])
        ).r2c()
        divergence = divergence + field.x[axis] * field.value
    k = np.sqrt(sum(x**2 for x in field.x))
    expected = power(k) * universe.growth**2
    found = np.abs(divergence) ** 2 * lattice.BoxSize**3
    # planes of kz = 0 hold both of each pair of modes
    weight = np.where((field.i[2] > 0) & (field.i[2] < lattice.Nmesh // 2), 2.0, 1.0)
    fundamental = 2 * np.pi / lattice.BoxSize
    shells = np.rint((k / fundamental) ** 2).astype(int)
    ratios, number = 0.0, 0.0
    for shell in range(1, (lattice.Nmesh // 4) ** 2 + 1):
        edge = fundamental * np.sqrt(shell)
        linear = power.variance(kmax=edge) * universe.growth**2 < LINEAR**2
        if number >= FEWEST and not linear:
            break
        inside = shells == shell
        ratio = found / np.where(inside, expected, 1)
        sums = [(weight * inside).sum(), (weight * ratio)[inside].sum()]
        count, total = comm.allreduce(np.array(sums))
        ratios, number = ratios + total, number + count
    amplitude = ratios / number
    sigma8 = power.sigma8 * np.sqrt(amplitude)
    # a mode and its complex conjugate are one, of which |psi|^2 scatters as much as its mean
    return sigma8, sigma8 * np.hypot(np.sqrt(2 / number) / 2, SYSTEMATIC)
