"""The Lagrangian lattice: ID, site, position, displacement."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbodykit_sr.errors import InputError
from nbodykit_sr.lattice import LagrangianLattice, cube_root, particle_ids, wrap

lattices = st.builds(
    LagrangianLattice, Nmesh=st.integers(1, 20), BoxSize=st.floats(1, 1000), offset=st.floats(-4, 4)
)


@given(lattices, st.integers(0, 2**40))
def test_id_to_site_to_id(lattice, base):
    ids = base + np.arange(lattice.size)
    np.testing.assert_array_equal(lattice.id(lattice.site(ids, base), base), ids)


def test_x_is_the_slowest_index():
    lattice = LagrangianLattice(4, 1.0)
    np.testing.assert_array_equal(
        lattice.site([1, 2, 5, 17]), [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    )


@given(lattices, st.integers(0, 2**32 - 1))
def test_displacement_to_position_to_displacement(lattice, seed):
    site = lattice.site(1 + np.arange(lattice.size))
    reach = 0.49 * lattice.BoxSize
    displacement = np.random.default_rng(seed).uniform(-reach, reach, site.shape)
    position = lattice.position(site, displacement)
    assert (0 <= position).all() and (position < lattice.BoxSize).all()
    np.testing.assert_allclose(
        lattice.displacement(site, position), displacement, atol=1e-12 * lattice.BoxSize
    )


@given(lattices, st.sampled_from([2, 4, 8]))
def test_refined_sites_surround_their_coarse_site(lattice, factor):
    fine = lattice.refine(factor)
    children = np.indices((factor,) * 3).reshape(3, -1).T
    centre = fine.site_position(children).mean(axis=0)
    np.testing.assert_allclose(
        centre, lattice.site_position([0, 0, 0]), atol=1e-9 * lattice.BoxSize
    )


def test_offsets_of_refined_lattices():
    assert LagrangianLattice(16, 25.0, 0.5).refine(8).offset == 0.5
    assert LagrangianLattice(16, 25.0, 0.0).refine(8).offset == -3.5


@given(st.floats(-1e3, 1e3), st.floats(0.1, 1e3), st.sampled_from(["f4", "f8"]))
def test_wrapped_positions_stay_in_the_box(position, BoxSize, dtype):
    wrapped = wrap(np.array([position, BoxSize, -1e-12, np.nextafter(BoxSize, 0)]), BoxSize, dtype)
    assert wrapped.dtype == dtype
    assert (0 <= wrapped).all() and (wrapped < BoxSize).all()


def test_the_generation_byte_is_dropped():
    ids = np.array([[5], [5 + (3 << 56)]], dtype="u8")
    np.testing.assert_array_equal(particle_ids(ids), [5, 5])


def test_counts_that_are_no_cube_are_refused():
    assert cube_root(4096) == 16
    with pytest.raises(InputError, match="4095 particles.*cube"):
        cube_root(4095)
