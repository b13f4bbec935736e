"""The settings of the displacement GAN; the defaults are the paper's (Li et al. 2021)."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .configuration import Configuration, Count, Positive, Table, Weight
from .objectives import EnergyScore


class PairsTable(Table):
    """Where the fields are."""

    train: tuple[str, ...]
    """Glob patterns of pair folders."""
    held_out: tuple[str, ...] = ()
    """The same of pairs that are not trained on. None: nothing is evaluated."""


class SampleTable(Table):
    """The crops; each is turned into one of its 48 orientations."""

    crop: Count = 14
    """LR sites on a side; the generator is given its padding on each side besides."""
    bulk: Weight = 0.0
    """Draw a bulk motion for each: a normal of this width [Mpc/h at z = 0] is added to each component of
    the displacements, and to the velocities what goes with it. The small scales must not depend on
    it, and larger boxes than those trained on have more."""


class GeneratorTable(Table):
    """The generator, see `models.generator`."""

    channels: Literal[3, 6] = 6
    """3 (displacement) or 6 (and velocity)."""
    chan_base: Count = 512
    """Channels on the LR lattice; each level has half of those before it."""
    chan_min: Count = 64
    """The fewest channels of a level."""
    chan_max: Count = 512
    """The most channels of a level."""
    noise_std: Weight = 0.0
    """First amplitude of the noise of every layer; the public code starts at zero."""
    length: Positive = 6.0
    """Displacement that is 1 at z = 0, comoving [Mpc/h]."""
    convex: Annotated[int, Field(ge=0)] = 0
    """How many of the last levels upsample convexly; 0: the published network."""
    gated: bool = False
    """Give these levels gates."""
    sharp: bool = False
    """Give these levels a sharpness."""
    virial: bool = False
    """Give these levels mean shift and scatter."""
    phases: bool = False
    """Give the network the phases of the initial conditions; the pairs must have them, and may be of
    any LR cells, redshifts and cosmologies. `length` is not used."""
    context: tuple[Count, ...] = ()
    """Dilations of residual convolutions on the LR lattice."""
    refined: Annotated[int, Field(ge=0)] = 0
    """Residual convolutions after the first level."""
    increments: Positive = 1.0
    """Times the first weights of what levels add to the skip path."""

    @model_validator(mode="after")
    def _has_convex_levels(self):
        if (self.gated or self.sharp or self.virial) and not self.convex:
            raise ValueError(
                "generator.gated, sharp or virial is true, but only convex levels have these: set "
                "generator.convex"
            )
        return self


class CriticTable(Table):
    """The critic and what it sees."""

    blocks: Count = 4
    """Halvings of the resolution."""
    chan_base: Count = 512
    """Channels of the last block; each before it has half of those after it."""
    chan_min: Count = 64
    """The fewest channels of a block."""
    density_factor: Annotated[int, Field(ge=0)] = 1
    """Mesh cells per SR site, on a side, of the density it sees; 0: it sees none."""
    log_density: bool = False
    """It sees log(1 + density), not the density itself."""


class DisplacementConfiguration(Configuration):
    """A run of the displacement generator; the defaults are the GAN of Li et al. 2021."""

    pairs: PairsTable
    sample: SampleTable = SampleTable()
    generator: GeneratorTable = GeneratorTable()
    critic: CriticTable = CriticTable()
    score: EnergyScore = EnergyScore()

    @model_validator(mode="after")
    def _score_is_used(self):
        if self.score != EnergyScore() and not any(stage.score for stage in self.stage):
            raise ValueError(
                "the table [score] is set, but no stage is scored: set score in a [[stage]]"
            )
        if self.score.redshift and self.generator.channels != 6:
            raise ValueError(
                f"score.redshift is {self.score.redshift}: velocities are needed for it, set "
                "generator.channels = 6"
            )
        return self
