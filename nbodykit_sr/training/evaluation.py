"""Comparing generated with true densities on held-out fields: P(k) ratio and cross-correlation."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .losses import hann

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Spectra:
    """Auto and cross power of two densities, in shells of one fundamental mode.

    Attributes
    ----------
    k : (n,) float64 tensor [h/Mpc]
        Mean wavenumber of the shells, up to the Nyquist one.
    power, truth, cross : (n,) float64 tensors
        Sums of a field's power, of HR's and of their cross power in each shell, arbitrary units; those
        of several regions add up.
    """

    k: torch.Tensor
    power: torch.Tensor
    truth: torch.Tensor
    cross: torch.Tensor

    @classmethod
    def of(cls, field, truth, length, periodic=True) -> "Spectra":
        """Spectra of a density and of HR's, (N, N, N), in a cube of `length` [Mpc/h]."""
        field, truth = field.double().cpu(), truth.double().cpu()
        size = field.shape[0]
        if not periodic:
            weight = hann(size, field.device, torch.float64)
            field, truth = (
                (x - (x * weight).sum() / weight.sum()) * weight for x in (field, truth)
            )
        a, b = torch.fft.rfftn(field), torch.fft.rfftn(truth)
        n = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
        nz = torch.fft.rfftfreq(size, 1 / size, dtype=torch.float64)
        radius = torch.sqrt(n[:, None, None] ** 2 + n[None, :, None] ** 2 + nz**2).flatten()
        # modes with 0 < kz < Nyquist stand for two
        twice = torch.where((nz > 0) & (nz < size / 2), 2.0, 1.0).expand(a.shape).flatten()
        shell = radius.round().long().clamp(max=size // 2 + 1)

        def total(values):
            out = torch.zeros(size // 2 + 2, dtype=torch.float64)
            return out.index_add(0, shell, twice * values.flatten())[1 : size // 2]

        count = total(torch.ones_like(radius))
        return cls(
            total(radius) / count * (2 * math.pi / length),
            total(a.abs() ** 2),
            total(b.abs() ** 2),
            total((a * b.conj()).real),
        )

    def __add__(self, more):
        return Spectra(
            self.k, self.power + more.power, self.truth + more.truth, self.cross + more.cross
        )

    @property
    def ratio(self) -> torch.Tensor:
        """P / P_HR of each shell."""
        return self.power / self.truth

    @property
    def correlation(self) -> torch.Tensor:
        """Cross-correlation coefficient of each shell."""
        return self.cross / torch.sqrt(self.power * self.truth)

    def summary(self) -> dict[str, float]:
        """Ratio and correlation in octaves of k [h/Mpc], and the mean |log10 ratio|."""
        values, errors = {}, []
        octaves = torch.log2(self.k).floor()
        for octave in octaves.unique().tolist():
            inside = octaves == octave
            power, truth, cross = (x[inside].sum() for x in (self.power, self.truth, self.cross))
            name = f"{2**octave:g}-{2 ** (octave + 1):g}"
            values[f"power {name}"] = float(power / truth)
            values[f"correlation {name}"] = float(cross / torch.sqrt(power * truth))
            errors.append(abs(math.log10(max(float(power / truth), 1e-30))))
        values["power error"] = sum(errors) / len(errors)
        return values


def figure(slices, spectra) -> "Figure":
    """A figure of density slices and of P(k).

    Parameters
    ----------
    slices : dict of str: (N, N) tensor
        1 + delta of a slice, by title.
    spectra : dict of str: Spectra
        By label.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    fig = Figure(figsize=(3.2 * (len(slices) + 1), 3.4), layout="constrained")
    axes = fig.subplots(1, len(slices) + 1)
    for ax, (title, image) in zip(axes, slices.items(), strict=False):
        ax.imshow(torch.log10(image.clamp(min=0.03)).cpu().T, origin="lower", vmin=-1, vmax=1.5)
        ax.set(title=title, xticks=[], yticks=[])
    for color, (label, s) in enumerate(spectra.items()):
        axes[-1].plot(s.k, s.ratio, f"C{color}", label=f"{label} $P/P_\\mathrm{{HR}}$")
        axes[-1].plot(s.k, s.correlation, f"C{color}:", label=f"{label} correlation")
    axes[-1].axhline(1, color="0.7", lw=0.8)
    axes[-1].set(xscale="log", xlabel="k [h/Mpc]", ylim=(0, 1.6))
    axes[-1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[-1].xaxis.set_major_formatter(lambda k, _: f"{k:g}")
    axes[-1].xaxis.set_minor_formatter(NullFormatter())
    axes[-1].legend(fontsize=7)
    return fig
