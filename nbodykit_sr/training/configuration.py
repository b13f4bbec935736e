"""The configuration of a training run: one frozen tree of dataclasses, read from TOML.

The defaults are the paper's (Li et al. 2021): 5 epochs of L2, then 150 of WGAN-GP with the
penalty every 16th batch, Adam at 1e-5 with betas (0, 0.99). What the paper does not have is off.
"""

import difflib
import tomllib
import types
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path

from ..errors import InputError


def require(condition, message) -> None:
    """Raise InputError(message) unless `condition` holds."""
    if not condition:
        raise InputError(message)


def one_of(name, value, choices) -> None:
    """Raise InputError unless `value` is among `choices`."""
    require(value in choices, f"{name} is {value!r}: one of {', '.join(map(repr, choices))} needed")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of the schedule with one loss.

    Attributes
    ----------
    name : str
        For the logs.
    epochs : float
        Length in epochs: as many crops as fill the training boxes once.
    steps : int
        Length in steps instead: give one of the two.
    l2 : float
        Weight of the mean squared error, in normalised units.
    score, statistics : float
        Weights of the energy score and of the statistics loss (not in the papers; `objectives`).
    adversarial : str
        "none", "wasserstein" (with a gradient penalty: WGAN-GP) or "relativistic" (with R1, or R1
        and R2): see `losses.critic_loss`.
    adversarial_weight : float
        Weight of the adversarial loss of the generator.
    learning_rate, critic_learning_rate : float
        Of Adam.
    decay : float
        Learning rates fall to this fraction over the stage, as a cosine; 1 keeps them.
    critic_steps : int
        Updates of the critic for each of the generator (n_critic).
    penalty : float
        Weight of the gradient penalty on the batches that have it: lambda of WGAN-GP, or half
        gamma of R1. It is not multiplied by `penalty_every`.
    penalty_at : str
        Where it is taken, see `losses.gradient_penalty`: "real" (R1, the default) or "both" (R1 and
        R2); "wasserstein" has it "between" SR and HR.
    penalty_every : int
        One critic update in this many has the penalty.
    warmup : int
        Steps at the start of the stage that update the critic alone.
    batch_doubles_every : int
        The batch doubles after each so many steps of the stage; 0 never.
    """

    name: str = "stage"
    epochs: float = 0.0
    steps: int = 0
    l2: float = 0.0
    score: float = 0.0
    statistics: float = 0.0
    adversarial: str = "none"
    adversarial_weight: float = 1.0
    learning_rate: float = 1e-5
    critic_learning_rate: float = 1e-5
    decay: float = 1.0
    critic_steps: int = 1
    penalty: float = 10.0
    penalty_at: str = ""
    penalty_every: int = 16
    warmup: int = 0
    batch_doubles_every: int = 0

    def __post_init__(self):
        where = f"stage {self.name!r}"
        require(
            (self.epochs > 0) != (self.steps > 0),
            f"{where} has epochs = {self.epochs} and steps = {self.steps}: give one of the two",
        )
        kinds = ("none", "wasserstein", "relativistic")
        one_of(f"adversarial of {where}", self.adversarial, kinds)
        places = ("between",) if self.adversarial == "wasserstein" else ("real", "both")
        one_of(f"penalty_at of {where}", self.penalty_at or places[0], places)
        for name in ("l2", "score", "statistics", "adversarial_weight", "penalty", "warmup"):
            value = getattr(self, name)
            require(value >= 0, f"{name} of {where} is {value}: zero or more needed")
        for name in ("learning_rate", "critic_learning_rate", "critic_steps", "penalty_every"):
            value = getattr(self, name)
            require(value > 0, f"{name} of {where} is {value}: more than zero needed")
        require(0 < self.decay <= 1, f"decay of {where} is {self.decay}: within (0, 1] needed")
        require(
            self.weights or self.adversarial != "none",
            f"{where} has no loss: set l2, score, statistics or adversarial",
        )
        require(
            self.warmup == 0 or self.adversarial != "none",
            f"{where} has warmup = {self.warmup} but no critic: set adversarial",
        )

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms of the objective, without those that have none."""
        names = ("l2", "score", "statistics")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @property
    def penalised(self) -> str:
        """Where the gradient penalty is taken."""
        return self.penalty_at or ("between" if self.adversarial == "wasserstein" else "real")


PAPER_STAGES = (
    Stage(name="L2", epochs=5, l2=1.0),
    Stage(name="WGAN-GP", epochs=150, adversarial="wasserstein"),
)


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """How often the run is saved.

    Attributes
    ----------
    every : int
        Steps between checkpoints.
    keep : int
        The newest so many are kept.
    """

    every: int = 1000
    keep: int = 3

    def __post_init__(self):
        require(self.every > 0, f"checkpoints.every is {self.every}: more than zero needed")
        require(self.keep > 1, f"checkpoints.keep is {self.keep}: 2 or more, in case one breaks")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How often held-out fields are compared, and how much of them.

    Attributes
    ----------
    every : int
        Steps between evaluations; 0 never.
    crops : int
        Regions compared at each.
    sites : int
        Side of a region in LR sites, tiled by training crops; a whole box where it is as small.
    """

    every: int = 1000
    crops: int = 2
    sites: int = 16

    def __post_init__(self):
        for name in ("crops", "sites"):
            require(
                getattr(self, name) > 0,
                f"evaluation.{name} is {getattr(self, name)}: more than zero needed",
            )


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What every training run has; each system adds tables of its own in a subclass.

    Attributes
    ----------
    run : str
        Folder for checkpoints, logs and figures.
    system : str
        "displacement" (Li et al. 2021) or "density" (Kodi Ramanah et al. 2020).
    seed : int
        Of first weights, crops, rotations and noise.
    start : tuple of str
        Folders of other runs, perhaps of another factor, or ``.safetensors`` files, whose weights
        this run takes one after the other (see `warm_start.start_from`).
    batch : int
        Samples of a step, over all ranks together.
    device : str
        "auto", "cpu" or "cuda".
    precision : str
        "float32", or "bfloat16" for autocast of the networks.
    workers : int
        Threads that prepare samples.
    optimizer : str
        Of the generator: "adam", as the critic has, or "muon" for the kernels of its convolutions
        and Adam for the rest (see `optimizers.Muon`; not in the papers).
    betas : (float, float)
        Of Adam, for both networks.
    average : float
        Decay of the exponential moving average of the generator, such as 0.999, which is then
        what is evaluated and exported; 0 keeps none.
    log_every : int
        Steps between lines of the log.
    stage : tuple of Stage
        The schedule.
    """

    run: str
    system: str = "displacement"
    seed: int = 0
    start: tuple[str, ...] = ()
    batch: int = 1
    device: str = "auto"
    precision: str = "float32"
    workers: int = 1
    optimizer: str = "adam"
    betas: tuple[float, float] = (0.0, 0.99)
    average: float = 0.0
    log_every: int = 10
    stage: tuple[Stage, ...] = PAPER_STAGES
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self):
        one_of("device", self.device, ("auto", "cpu", "cuda"))
        one_of("precision", self.precision, ("float32", "bfloat16"))
        one_of("optimizer", self.optimizer, ("adam", "muon"))
        for name in ("batch", "workers", "log_every"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}: more than zero needed")
        require(self.seed >= 0, f"seed is {self.seed}: zero or more needed")
        require(0 <= self.average < 1, f"average is {self.average}: a decay within [0, 1) needed")
        require(
            all(0 <= beta < 1 for beta in self.betas),
            f"betas are {self.betas}: both within [0, 1) needed",
        )
        require(len(self.stage) > 0, "the schedule has no stage: one [[stage]] or more needed")


def read_toml(path, above=()) -> dict:
    """The table in a TOML file, and in what it extends.

    ``extends = "base.toml"`` names another file, from this one's folder, whose settings hold where
    this one does not set them: tables are merged, lists replaced.

    Parameters
    ----------
    path : path
    above : tuple of paths
        Files that extend this one.

    Raises
    ------
    InputError
        If a file cannot be read, is no TOML, or extends itself.
    """
    path = Path(path).resolve()
    require(path not in above, f"{path} extends itself: remove extends from one of the files")
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from None
    base = table.pop("extends", None)
    if base is None:
        return table
    require(isinstance(base, str), f"extends of {path} is {base!r}: the name of a file is needed")
    return _merged(read_toml(path.parent / base, (*above, path)), table)


def _merged(base, table):
    """`table` with what it does not set from `base`, table by table."""
    both = {**base, **table}
    for key in base.keys() & table.keys():
        if isinstance(base[key], dict) and isinstance(table[key], dict):
            both[key] = _merged(base[key], table[key])
    return both


def build(kind, table, where="") -> Configuration:
    """Make the dataclass `kind` of a table of plain values, such as TOML or `plain` gives.

    Parameters
    ----------
    kind : type
        A dataclass, whose fields are scalars, tuples, dataclasses or tuples of these.
    table : dict
    where : str
        Name of the table, for messages.

    Raises
    ------
    InputError
        For an unknown key (naming the nearest known one), a missing one or a wrong type.
    """
    if not isinstance(table, dict):
        raise InputError(f"{where} is {table!r}: a table of settings is needed")
    known = {f.name: f for f in fields(kind)}
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        name = f"{where}.{key}" if where else key
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise InputError(f"{name} is not a known setting: did you mean {near[0]!r}?")
        values[key] = _value(hints[key], value, name)
    for key, f in known.items():
        if key not in values and f.default is MISSING and f.default_factory is MISSING:
            name = f"{where}.{key}" if where else key
            raise InputError(f"the setting {name} is missing: give it in the TOML file")
    return kind(**values)


def plain(configuration) -> dict:
    """The configuration as nested dicts and lists of scalars: what a checkpoint keeps."""

    def lists(value):
        if isinstance(value, dict):
            return {key: lists(item) for key, item in value.items()}
        return [lists(item) for item in value] if isinstance(value, (list, tuple)) else value

    return lists(asdict(configuration))


def _value(hint, value, name):
    """`value` as the type `hint`, or an InputError that names `name`."""
    if is_dataclass(hint):
        return build(hint, value, name)
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{name} is {value!r}: a list is needed")
        if kinds[-1] is Ellipsis:
            return tuple(_value(kinds[0], v, f"{name}[{i}]") for i, v in enumerate(value))
        if len(value) != len(kinds):
            raise InputError(f"{name} is {value!r}: {len(kinds)} values are needed")
        return tuple(_value(k, v, name) for k, v in zip(kinds, value, strict=True))
    if isinstance(hint, types.UnionType):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        words = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
        raise InputError(f"{name} is {value!r}: {words[hint]} is needed")
    return value
