"""Statistics that say whether a super-resolved catalogue can be believed.

Functions on nbodykit catalogues and meshes, over MPI; each returns one `Statistic` or several.
"""

from .bias import halo_bias
from .bispectrum import angle_triangles, bispectrum, equilateral_triangles
from .fields import complex_field, real_field, top_hat
from .halo_matching import halo_sites, matching_by_mass, partners
from .halo_profiles import density_profiles
from .halo_structure import halo_table, structure_by_mass
from .halos import Halos, find_halos, particle_mass
from .mass_function import mass_edges, mass_function
from .pairs import pair_statistics
from .pdf import density_pdf
from .power import comparison, power_spectrum
from .redshift_space import line_of_sight_power, redshift_space_power
from .seams import axis_quadrupoles, displacement_jumps
from .statistic import Statistic, ensemble, ratio
from .voids import find_voids, void_radii, void_size_function

__all__ = [
    "Statistic",
    "ensemble",
    "ratio",
    "real_field",
    "complex_field",
    "top_hat",
    "power_spectrum",
    "comparison",
    "line_of_sight_power",
    "redshift_space_power",
    "Halos",
    "find_halos",
    "particle_mass",
    "mass_edges",
    "mass_function",
    "halo_table",
    "structure_by_mass",
    "density_profiles",
    "halo_sites",
    "partners",
    "matching_by_mass",
    "pair_statistics",
    "halo_bias",
    "density_pdf",
    "bispectrum",
    "angle_triangles",
    "equilateral_triangles",
    "find_voids",
    "void_radii",
    "void_size_function",
    "displacement_jumps",
    "axis_quadrupoles",
]
