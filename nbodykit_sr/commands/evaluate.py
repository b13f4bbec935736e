"""Write the measured accuracy of a model into its card.

    nbodykit-sr evaluate mine.safetensors z2/report.json z0/report.json --bfloat16 LR_z2 LR_z0

Reports of `validate` say what the model is worth. From the snapshots catalogues are made in float32
and in bfloat16: the change of P(k) decides whether ``--dtype auto`` may take bfloat16.
"""

import logging
from dataclasses import dataclass

import numpy as np

from ..catalog import SRCatalog
from ..diagnostics.fields import complex_field
from ..diagnostics.power import comparison
from ..diagnostics.verdicts import read_report
from ..errors import InputError, agreement
from ..inference import DTYPES
from ..io.snapshot import open_snapshot
from ..physics.universe import Universe
from ..training.export import at, evaluate
from .command import start_log
from .options import option, parse_options

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of ``evaluate``."""

    model: str = option("input", ".safetensors file, whose card is written anew")
    reports: tuple = option(
        "input", "report.json of validate with HR, one for each redshift", nargs="*"
    )
    bfloat16: tuple = option(
        "input",
        "snapshots, one for each redshift, on which P(k) in bfloat16 is held against that in float32",
        (),
        nargs="+",
        metavar="LR",
    )


def power_change(model, snapshot) -> float:
    """The largest relative change of P(k), up to the Nyquist wavenumber of SR, that bfloat16 makes.

    Of an LR snapshot, super-resolved with seed 0 in either dtype. Collective.
    """
    made = [SRCatalog(snapshot, model, dtype=dtype) for dtype in DTYPES]
    exact, rough = (complex_field(sr, sr.lattice.Nmesh) for sr in made)
    return float(np.abs(comparison(rough, exact)["ratio"] - 1).max())


def main(argv, comm) -> None:
    """The command. Collective."""
    what = "Put what validate found, and what bfloat16 changes, into a model's card."
    example = "mine.safetensors z2/report.json z0/report.json"
    options = parse_options(EvaluateOptions, argv, "evaluate", what, example)
    start_log("evaluate", comm, verbose=True, others=logging.ERROR)
    if not (options.reports or options.bfloat16):
        raise InputError("no report and no snapshot: name what is to go into the card")
    changes = {}
    for path in options.bfloat16:
        snapshot = open_snapshot(path, comm)
        redshift = Universe.of(snapshot.attrs, "a").redshift
        change = power_change(options.model, snapshot)
        changes[at(redshift)] = change
        if comm.rank == 0:
            logger.info("%s: bfloat16 changes P(k) by up to %.2g", path, change)
    with agreement(comm):
        if comm.rank == 0:
            reports = [read_report(path) for path in options.reports]
            evaluate(options.model, reports, changes)
