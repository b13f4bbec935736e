"""What is installed: the commands ``models`` and ``info``."""

import os
import platform
import shutil
import sys
from pathlib import Path

import torch
from mpi4py import MPI

from .. import weights
from ..models.card import read_card
from ..models.card_summary import card_rows
from ..version import __version__, versions
from .command import Parser

# Whose versions matter
_PACKAGES = (
    "nbodykit",
    "pmesh",
    "bigfile",
    "h5py",
    "mpi4py",
    "torch",
    "numpy",
    "scipy",
    "dask",
    "safetensors",
    "pydantic",
    "matplotlib",
    "Corrfunc",
    "halotools",
)


def models(argv, comm) -> None:
    """The command ``models``: what ships, or all that the card of one model says."""
    parser = Parser(
        "models",
        "The models that ship: what each is for, and what it is worth by its card. The one that fits a\n"
        "snapshot is the default of generate.",
        "phases",
    )
    parser.group("model")("name", nargs="?", help="show this one, and the notes in its card")
    name = parser.parse_args(argv).name
    cards = {card.name: card for card in map(read_card, weights.shipped())}
    if name is not None and name not in cards:
        parser.error(f"no model {name!r} ships: there are {', '.join(cards)}")
    if comm.rank == 0:
        for card in [cards[name]] if name else cards.values():
            print(card.name)
            for what, value in card_rows(card).items():
                if value:
                    print(f"    {what}: {value}")
        if name:
            print(f"\n{cards[name].notes}")


def info(argv, comm) -> None:
    """The command ``info``: the machine and the installation as this package sees them. Collective."""
    parser = Parser("info", "What to paste into a bug report.", "")
    parser.parse_args(argv)
    hosts = comm.gather(MPI.Get_processor_name())
    if comm.rank > 0:
        return
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    found = {
        "nbodykit_sr": f"{__version__}, {Path(__file__).parents[1]}",
        "weights": weights.FOLDER,
        "python": f"{platform.python_version()}, {sys.executable}",
        "platform": platform.platform(),
        **versions(_PACKAGES),
        "MPI library": MPI.Get_library_version().partition(",")[0].splitlines()[0],
        "mpirun": shutil.which("mpirun") or "not on PATH",
        "ranks": f"{comm.size} on {len(set(hosts))} node{'s' * (len(set(hosts)) > 1)}",
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "threads": f"{torch.get_num_threads()}, OMP_NUM_THREADS is "
        f"{os.environ.get('OMP_NUM_THREADS', 'not set')}",
        "GPUs": ", ".join(gpus) or "none",
    }
    for name, value in found.items():
        print(f"{name:14}{value}")
