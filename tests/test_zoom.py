"""Regions of the evolved box: nothing that belongs there is left out."""

import numpy as np
import pytest

from nbodykit_sr import InputError, SRCatalog, open_snapshot
from nbodykit_sr.commands.generate_options import parse

pytestmark = pytest.mark.mpi

REGIONS = {
    "around a cluster": ((3.0, 7.0), (10.0, 15.0), (18.0, 21.0)),
    "over an edge": ((23.0, 27.5), (-2.0, 1.5), (24.0, 26.0)),
    "a thin slice": ((0.0, 25.0), (12.4, 12.5), (0.0, 25.0)),
}


def inside(position, region, box):
    low, high = np.transpose(region)
    return ((position - low) % box < high - low).all(axis=1)


def ids_inside(sr, region):
    box = sr.attrs["BoxSize"][0]
    position, ids = sr.compute(sr["Position"], sr["ID"])
    return np.sort(np.concatenate(sr.comm.allgather(ids[inside(position, region, box)])))


@pytest.mark.mpi(ranks=4)
@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
def test_every_particle_of_the_region_is_there(comm, data, region):
    low = open_snapshot(data / "lr16_25_z0", comm)
    options = {"model": "interpolate", "factor": 2, "chunk": 2}
    whole = SRCatalog(low, **options)
    part = SRCatalog(low, region=region, eulerian=True, **options)
    wanted = ids_inside(whole, region)
    assert len(wanted) and part.csize < whole.csize
    np.testing.assert_array_equal(ids_inside(part, region), wanted)


@pytest.mark.slow
def test_the_small_scales_of_a_model_stay_within_the_margin(comm, data):
    low = open_snapshot(data / "lr16_25_z2", comm)
    region = ((3.0, 5.0), (10.0, 12.0), (18.0, 20.0))
    part = SRCatalog(low, region=region, eulerian=True, seed=3, chunk=4)
    whole = SRCatalog(low, seed=3, chunk=4)
    np.testing.assert_array_equal(ids_inside(part, region), ids_inside(whole, region))
    assert part.csize < whole.csize


def test_refusals(comm, data):
    with pytest.raises(InputError, match="give one"):
        parse(["in", "out", "--eulerian"])
    low = open_snapshot(data / "lr16_25_z0", comm)
    with pytest.raises(InputError, match="low < high"):
        SRCatalog(low, model="interpolate", region=[(1, 0)] * 3, eulerian=True)
