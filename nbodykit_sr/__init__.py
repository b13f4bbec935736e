"""AI-assisted super-resolution of cosmological simulations for nbodykit.

In the order in which data flows: a snapshot is opened, its particles are put on their Lagrangian
lattice, a generator is loaded, and the super-resolved catalogue is computed as it is looked at.
"""

import os
from importlib import import_module

from .version import __version__

# "4,2", threads at each level of nested loops, is a list that OpenMP takes; numexpr, which libraries
# below import, takes a number
_threads, *_nested = os.environ.get("OMP_NUM_THREADS", "").split(",")
if _nested:
    os.environ.setdefault("NUMEXPR_NUM_THREADS", _threads)

# Where each public name lives. They are imported when they are asked for, so that networks and
# training also run where there is torch but no MPI and no nbodykit.
_MODULES = {
    "open_snapshot": "io.snapshot",
    "cosmology": "io.snapshot",
    "LagrangianLattice": "lattice",
    "Normalization": "physics.normalization",
    "site_noise": "noise",
    "Generator": "models.generator",
    "DensityEmulator": "models.density",
    "ModelCard": "models.card",
    "load_generator": "models.loading",
    "save_model": "models.card",
    "SRCatalog": "catalog",
    "SRLightCone": "lightcone.catalog",
    "SRMesh": "density.mesh",
    "open_cone": "io.cones",
    "open_halos": "io.groups",
    "InputError": "errors",
}

__all__ = [*_MODULES, "__version__"]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__():
    return sorted({*globals(), *__all__})
