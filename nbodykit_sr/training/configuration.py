"""The configuration of a training run: one frozen tree of tables, read from TOML.

The defaults are the paper's (Li et al. 2021): 5 epochs of L2, then 150 of WGAN-GP with the
penalty every 16th batch, Adam at 1e-5 with betas (0, 0.99). What the paper does not have is off.
"""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Table(BaseModel):
    """A table of settings: typed, immutable, and without unknown settings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class Stage(Table):
    """A stretch of the schedule with one loss."""

    name: str = "stage"
    """For the logs."""
    epochs: Weight = 0.0
    """Length in epochs: as many crops as fill the training boxes once."""
    steps: Annotated[int, Field(ge=0)] = 0
    """Length in steps instead: give one of the two."""
    l2: Weight = 0.0
    """Weight of the mean squared error, in normalised units."""
    score: Weight = 0.0
    """Weight of the energy score (not in the papers)."""
    statistics: Weight = 0.0
    """Weight of the statistics loss (not in the papers)."""
    adversarial: Literal["none", "wasserstein", "relativistic"] = "none"
    """"wasserstein" (with a gradient penalty: WGAN-GP) or "relativistic" (with R1), or "none"."""
    adversarial_weight: Weight = 1.0
    """Weight of the adversarial loss of the generator."""
    learning_rate: Positive = 1e-5
    """Of generator and critic."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rates fall to this fraction over the stage, as a cosine; 1 keeps them."""
    critic_steps: Count = 1
    """Updates of the critic for each of the generator (n_critic)."""
    penalty: Weight = 10.0
    """Weight of the gradient penalty on the batches that have it: lambda of WGAN-GP, or half gamma of
    R1. It is not multiplied by `penalty_every`."""
    penalty_every: Count = 16
    """One critic update in this many has the penalty."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps at the start of the stage that update the critic alone."""
    batch_doubles_every: Annotated[int, Field(ge=0)] = 0
    """The batch doubles each time that this many steps of the stage are done; 0 never."""

    @model_validator(mode="after")
    def _is_a_stage(self):
        where = f"stage {self.name!r}"
        if (self.epochs > 0) == (self.steps > 0):
            raise ValueError(
                f"{where} has epochs = {self.epochs} and steps = {self.steps}: give one of the two"
            )
        if not self.weights and self.adversarial == "none":
            raise ValueError(f"{where} has no loss: set l2, score, statistics or adversarial")
        if self.warmup and self.adversarial == "none":
            raise ValueError(f"{where} has warmup = {self.warmup} but no critic: set adversarial")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms of the objective, without those that have none."""
        names = ("l2", "score", "statistics")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


PAPER_STAGES = (
    Stage(name="L2", epochs=5, l2=1.0),
    Stage(name="WGAN-GP", epochs=150, adversarial="wasserstein"),
)


class Checkpoints(Table):
    """How often the run is saved."""

    every: Count = 1000
    """Steps between checkpoints."""
    keep: Annotated[int, Field(ge=2)] = 3
    """How many of the newest are kept; two at least, in case one breaks."""


class Evaluation(Table):
    """How often held-out fields are compared, and how much of them."""

    every: Annotated[int, Field(ge=0)] = 1000
    """Steps between evaluations; 0 never."""
    crops: Count = 2
    """Regions compared at each."""
    sites: Count = 16
    """Side of a region in LR sites, tiled by training crops; a whole box where it is as small."""


class Configuration(Table):
    """What every training run has; each system adds tables of its own in a subclass."""

    run: str
    """Folder for checkpoints, logs and figures."""
    system: str = "displacement"
    """"displacement" (Li et al. 2021) or "density" (Kodi Ramanah et al. 2020)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of first weights, crops, rotations and noise."""
    start: tuple[str, ...] = ()
    """Folders of other runs, perhaps of another factor, or `.safetensors` files, whose weights this
    run takes one after the other."""
    batch: Count = 1
    """Samples of a step, over all ranks together."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """"bfloat16" for autocast of the networks."""
    workers: Count = 1
    """Threads that prepare samples."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Of the generator: "adam", as the critic has, or "muon" for the kernels of its convolutions and
    Adam for the rest (not in the papers)."""
    betas: tuple[Decay, Decay] = (0.0, 0.99)
    """Of Adam, for both networks."""
    average: Decay = 0.0
    """Decay of the exponential moving average of the generator, such as 0.999, which is then what is
    evaluated and exported; 0 keeps none."""
    log_every: Count = 10
    """Steps between lines of the log."""
    stage: Annotated[tuple[Stage, ...], Field(min_length=1)] = PAPER_STAGES
    """The schedule."""
    checkpoints: Checkpoints = Checkpoints()
    evaluation: Evaluation = Evaluation()


def read_toml(path) -> dict:
    """The table in a TOML file.

    Raises
    ------
    InputError
        If the file cannot be read, or is no TOML.
    """
    try:
        with open(Path(path), "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from None


def build(kind, table) -> Any:
    """A `Table` of the class `kind` from plain values, such as TOML or `plain` gives.

    Raises
    ------
    InputError
        For the first setting that is unknown (naming the nearest known one), missing or wrong.
    """
    try:
        # as JSON, in which a list may be a tuple and nothing else is taken for another type
        return kind.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        raise InputError(_first_fault(kind, error)) from None


def plain(configuration) -> dict:
    """The configuration as nested dicts and lists of scalars: what a checkpoint keeps."""
    return configuration.model_dump(mode="json")


def _first_fault(kind, error):
    """The first of pydantic's errors, in one line."""
    first = error.errors()[0]
    place = first["loc"]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)[1:]
    if first["type"] == "value_error":  # of our own: a whole sentence
        return str(first["ctx"]["error"])
    if first["type"] == "extra_forbidden":
        (near,) = difflib.get_close_matches(place[-1], _settings(kind, place[:-1]), 1, cutoff=0)
        return f"{name} is not a known setting: did you mean {near!r}?"
    if first["type"] == "missing":
        return f"the setting {name} is missing: give it in the TOML file"
    wanted = first["msg"].replace("Input should", "it should")
    return f"{name} is {first['input']!r:.60}: {wanted}"


def _settings(kind, place):
    """Names of the settings of a table within the configuration `kind`."""
    for part in place:
        if isinstance(part, str):
            hint = kind.model_fields[part].annotation
            kind = get_args(hint)[0] if get_args(hint) else hint
    return list(kind.model_fields)
