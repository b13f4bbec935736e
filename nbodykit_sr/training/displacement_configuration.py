"""The settings of the displacement GAN; the defaults are the paper's (Li et al. 2021)."""

from dataclasses import dataclass, field

from .configuration import Configuration, one_of, require
from .objectives import EnergyScore


@dataclass(frozen=True, kw_only=True)
class PairsTable:
    """Where the fields are.

    Attributes
    ----------
    train, held_out : tuple of str
        Glob patterns of pair folders. None held out: nothing is evaluated.
    factor : int
        Train for this smaller factor, on HR fields averaged to its lattice, which are held in
        memory; 0 for the pairs' own. Steps cost several times less for each halving.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    factor: int = 0


@dataclass(frozen=True, kw_only=True)
class SampleTable:
    """The crops; each is turned into one of its 48 orientations.

    Attributes
    ----------
    crop : int
        LR sites on a side; 3 more on each side are given to the generator.
    bulk : float
        Draw a bulk motion for each: a normal of this width [Mpc/h at z = 0] is added to each
        component of the displacements, and to the velocities what goes with it. The small scales
        must not depend on it, and larger boxes than those trained on have more.
    """

    crop: int = 14
    bulk: float = 0.0

    def __post_init__(self):
        require(self.crop > 0, f"sample.crop is {self.crop}: more than zero needed")
        require(self.bulk >= 0, f"sample.bulk is {self.bulk}: zero or more needed")


@dataclass(frozen=True, kw_only=True)
class GeneratorTable:
    """The generator.

    Attributes
    ----------
    channels : int
        3 (displacement) or 6 (and velocity).
    chan_base, chan_min, chan_max : int
        Widths, see `DisplacementGenerator`.
    noise_std : float
        First amplitude of the noise of every layer; the public code starts at zero.
    length : float
        Displacement that is 1 at z = 0, comoving [Mpc/h].
    styled : bool
        Condition generator and critic on the scale factor (`StyledGenerator`).
    convex : int
        How many of the last levels upsample convexly (`ConvexGenerator`); 0: the published network.
    gated : bool
        Gate the increments of these levels.
    """

    channels: int = 6
    chan_base: int = 512
    chan_min: int = 64
    chan_max: int = 512
    noise_std: float = 0.0
    length: float = 6.0
    styled: bool = False
    convex: int = 0
    gated: bool = False

    def __post_init__(self):
        one_of("generator.channels", self.channels, (3, 6))
        for name in ("chan_base", "chan_min", "chan_max", "length"):
            value = getattr(self, name)
            require(value > 0, f"generator.{name} is {value}: more than zero needed")
        require(self.convex >= 0, f"generator.convex is {self.convex}: zero or more needed")
        require(
            self.convex or not self.gated,
            "generator.gated is true, but only convex levels have gates: set generator.convex",
        )


@dataclass(frozen=True, kw_only=True)
class CriticTable:
    """The critic and what it sees.

    Attributes
    ----------
    blocks : int
        Halvings of the resolution.
    chan_base, chan_min, chan_max : int
        Widths, see `Critic`.
    density_factor : int
        Mesh cells per SR site, on a side, of the density it sees; 0: it sees none.
    log_density : bool
        It sees log(1 + density), not the density itself.
    distances : bool
        It sees the log distances of each SR particle to its three neighbours on the lattice too
        (not in the paper): a halo is where they are short.
    """

    blocks: int = 4
    chan_base: int = 512
    chan_min: int = 64
    chan_max: int = 512
    density_factor: int = 1
    log_density: bool = False
    distances: bool = False


@dataclass(frozen=True, kw_only=True)
class DisplacementConfiguration(Configuration):
    """A run of the displacement generator; the defaults are the GAN of Li et al. 2021.

    Attributes
    ----------
    pairs : PairsTable
    sample : SampleTable
    generator : GeneratorTable
    critic : CriticTable
    score : EnergyScore
    """

    pairs: PairsTable
    sample: SampleTable = field(default_factory=SampleTable)
    generator: GeneratorTable = field(default_factory=GeneratorTable)
    critic: CriticTable = field(default_factory=CriticTable)
    score: EnergyScore = field(default_factory=EnergyScore)

    def __post_init__(self):
        super().__post_init__()
        require(
            self.score == EnergyScore() or any(stage.score for stage in self.stage),
            "the table [score] is set, but no stage is scored: set score in a [[stage]]",
        )
        coarsest, lag = 2 * self.sample.crop, max(self.score.lags)
        require(
            not self.score.levels or coarsest > lag,
            f"sample.crop is {self.sample.crop}, so {coarsest} sites of the generator's first level: "
            f"score.levels needs more than the largest of score.lags, {lag}; raise sample.crop",
        )
        require(
            not self.score.redshift or self.generator.channels == 6,
            f"score.redshift is {self.score.redshift}: velocities are needed for it, set "
            "generator.channels = 6",
        )
