"""One generator for a range of redshifts: its weights are a function of the scale factor."""

import torch
from torch import nn
from torch.func import functional_call

from .displacement import DisplacementGenerator

# Scale factor at which the style leaves the weights as they are
NEUTRAL = 0.5


class StyledGenerator(nn.Module):
    """A `DisplacementGenerator` conditioned on the scale factor, as StyleGAN2 conditions on style.

    Every convolution has one learned slope for each input channel: at scale factor a its weights
    are multiplied by ``1 + slope * (a - 1/2)``, input channel by input channel, and those of the
    3^3 convolutions are then brought back to their norm, output channel by output channel
    (modulation and demodulation, Karras et al. 2020). The noise amplitudes follow in the same way.
    With slopes of zero it is the plain generator.

    Parameters are those of `DisplacementGenerator`.
    """

    network: type[nn.Module] = DisplacementGenerator

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.base = self.network(*args, **kwargs)
        self.slopes = nn.ParameterDict()
        for name, parameter in self.base.named_parameters():
            if name.endswith(("weight", "std")):
                width = parameter.shape[1] if parameter.ndim > 1 else len(parameter)
                self.slopes[name.replace(".", "_")] = nn.Parameter(torch.zeros(width))

    channels = property(lambda self: self.base.channels)
    factor = property(lambda self: self.base.factor)
    widths = property(lambda self: self.base.widths)
    levels = property(lambda self: self.base.levels)
    arguments = property(lambda self: self.base.arguments)

    def weights(self, a) -> dict[str, torch.Tensor]:
        """State dict of the plain generator at scale factor `a`, differentiable."""
        state = {}
        for name, parameter in self.base.named_parameters():
            key = name.replace(".", "_")
            if key in self.slopes:
                style = 1 + self.slopes[key] * (a - NEUTRAL)
                if parameter.ndim == 1:
                    parameter = parameter * style
                else:
                    styled = parameter * style.view(-1, 1, 1, 1)
                    if parameter.shape[-1] > 1:
                        styled = styled * (_norm(parameter) / _norm(styled))
                    parameter = styled
            state[name] = parameter
        return state

    def options(self, a) -> dict:
        """What of the network's arguments depends on the scale factor `a`, besides weights."""
        return {}

    def at(self, a) -> nn.Module:
        """The plain generator at scale factor `a`: what inference uses."""
        plain = self.network(**{**self.base.arguments, **self.options(a)})
        plain.load_state_dict({name: value.detach() for name, value in self.weights(a).items()})
        device = next(self.parameters()).device
        return plain.to(device).train(self.training).requires_grad_(False)

    def forward(self, x, noise, a, every_level=False) -> torch.Tensor | list[torch.Tensor]:
        """Super-resolve padded chunks, each at its scale factor: see `DisplacementGenerator`.

        Parameters
        ----------
        x : (B, C, N, N, N) float tensor
        noise : list of (B, 1, M, M, M) float tensors
        a : (B,) float tensor
        every_level : bool
        """
        out = []
        for b, scale_factor in enumerate(a):
            sample = slice(b, b + 1)
            arguments = (x[sample], [field[sample] for field in noise])
            options = {**self.options(scale_factor), "every_level": True}
            weights = self.weights(scale_factor)
            out.append(functional_call(self.base, weights, arguments, options))
        levels = [torch.cat(samples) for samples in zip(*out)]
        return levels if every_level else levels[-1]


def _norm(weight):
    """Norm over everything but output channels."""
    return torch.sqrt(weight.square().sum((1, 2, 3, 4), keepdim=True) + 1e-12)
