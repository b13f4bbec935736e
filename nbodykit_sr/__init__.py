"""AI-assisted super-resolution of cosmological simulations for nbodykit.

In the order in which data flows: a snapshot is opened, its particles are put on their Lagrangian
lattice, a generator is loaded, and the super-resolved catalogue is computed as it is looked at.
"""

from .catalog import SRCatalog
from .errors import InputError
from .io.snapshot import cosmology, open_snapshot
from .lattice import LagrangianLattice
from .mesh import SRMesh
from .models.card import ModelCard, save_model
from .models.density import DensityEmulator
from .models.displacement import DisplacementGenerator
from .models.loading import load_generator
from .noise import site_noise
from .normalization import Normalization
from .version import __version__

__all__ = [
    "open_snapshot",
    "cosmology",
    "LagrangianLattice",
    "Normalization",
    "site_noise",
    "DisplacementGenerator",
    "DensityEmulator",
    "ModelCard",
    "load_generator",
    "save_model",
    "SRCatalog",
    "SRMesh",
    "InputError",
    "__version__",
]
