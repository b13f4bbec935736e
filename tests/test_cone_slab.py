"""A slab of a super-resolved light cone is the box at the time at which the slab is seen."""

import numpy as np
import pytest
from mpi4py import MPI
from nbodykit.lab import ArrayCatalog, FFTPower
from scipy.spatial import cKDTree

from nbodykit_sr import open_snapshot
from nbodykit_sr.lightcone.cone import Cone
from nbodykit_sr.lightcone.worldlines import LightCone
from nbodykit_sr.preparation import ModelOptions

pytestmark = pytest.mark.slow

BOX = 12.5
GIVEN = dict(seed=7, chunk=4, options=ModelOptions("phases", sigma8=0.8256))
APART = 0.15  # of pairs [Mpc/h]


@pytest.fixture(scope="module")
def low(data):
    return [open_snapshot(data / name, MPI.COMM_SELF) for name in ("lr8_12p5_z4", "lr8_12p5_z2")]


@pytest.fixture(scope="module")
def node(low):
    """A node in time between two others, and its distance [Mpc/h]."""
    light = LightCone(low, Cone(2.0, 2.2, angle=0.1), **GIVEN)
    a = light.nodes[-2]
    return float(a), float(light.expansion.distance(a))


@pytest.fixture(scope="module")
def slab(low, node):
    """Particles of one replica, whose middle is at the node, from its corner and by ID."""
    _, middle = node
    observer = (BOX / 2 - middle, BOX / 2, BOX / 2)
    angle = np.degrees(2 * BOX / middle)  # with what moves out of the replica
    light = LightCone(low, Cone(2.0, 2.2, observer, angle, (1, 0, 0)), **GIVEN)
    names = ("Position", "ID", "Replica", "Aemit")
    found = [part for _, parts in light.stream(light.chunks, light.select(names)) for part in parts]
    columns = {name: np.concatenate([part[name] for part in found]) for name in names}
    here = (columns["Replica"] == 0).all(axis=1)
    order = np.argsort(columns["ID"][here])
    return (columns["Position"][here] + observer)[order], columns["Aemit"][here][order], light


@pytest.fixture(scope="module")
def box(slab, node):
    """All particles of the box at the node, by ID."""
    *_, light = slab
    number, position = int(np.argmin(abs(light.nodes - node[0]))), np.zeros((light.fine.size, 3))
    for chunk in light.chunks:
        site = chunk.sites(light.model.card.factor)
        moved = light._fields((chunk, number))[:3].reshape(3, -1).T
        position[light.fine.id(site, base=0).astype("i8")] = light.fine.site_position(site) + moved
    return position


def spectrum(*positions):
    """Cross power of two sets of positions, (modes,) [(Mpc/h)^3]."""
    meshes = []
    for position in positions:
        catalog = ArrayCatalog({"Position": position % BOX}, BoxSize=[BOX] * 3)
        meshes.append(catalog.to_mesh(Nmesh=64, resampler="tsc", compensated=True))
    return FFTPower(meshes[0], mode="1d", second=meshes[-1], kmin=0.25).power["power"].real


def test_power_of_a_slab_is_that_of_the_snapshot(slab, box, node):
    position, a, _ = slab
    assert position.shape == box.shape  # each particle is there once
    assert a.min() < node[0] < a.max() and abs(a / node[0] - 1).max() < 5e-3
    ours, theirs, cross = (spectrum(*x) for x in ([position], [box], [position, box]))
    np.testing.assert_allclose(ours, theirs, rtol=0.005)
    np.testing.assert_allclose(cross**2, ours * theirs, rtol=0.002)


def test_the_edge_at_a_node_is_not_seen(slab, box):
    """Pairs across the distance at which the node is seen are those of the box."""
    position, *_ = slab
    across = []
    for place in (position, box):
        pairs = cKDTree(place % BOX, boxsize=BOX * (1 + 1e-12)).query_pairs(
            APART, output_type="ndarray"
        )
        x = place[:, 0][pairs] % BOX
        planes = np.linspace(1, BOX - 1, 22)  # none of them but the middle is near the node
        planes = np.append(planes, BOX / 2)
        x.sort(axis=1)
        near = x[:, 1] - x[:, 0] < BOX / 2
        across.append([((x[:, 0] < p) & (x[:, 1] >= p) & near).sum() for p in planes])
    ratio = np.divide(*across)
    assert abs(ratio[-1] - ratio[:-1].mean()) < 3 * ratio[:-1].std() + 0.002
    assert abs(ratio - 1).max() < 0.05
