"""Links of halos between two times."""

import numpy as np
import pytest

from nbodykit_sr import SRCatalog, open_snapshot
from nbodykit_sr.diagnostics.descendants import descendants, progenitors
from nbodykit_sr.diagnostics.groups import find_groups

pytestmark = pytest.mark.mpi


def members(groups, comm):
    """This rank's share of the particles of groups 1, 2, ... given by their IDs."""
    ids = np.concatenate([np.asarray(one, "u8") for one in groups])
    group = np.repeat(1 + np.arange(len(groups)), [len(one) for one in groups])
    mine = np.random.default_rng(3).permutation(len(ids))[comm.rank :: comm.size]
    return {"ID": ids[mine], "GroupID": group[mine]}


@pytest.mark.mpi(ranks=4)
def test_merging_splitting_and_dissolving(comm):
    early = [range(1, 101), range(200, 260), range(300, 340), range(400, 410)]
    late = [
        [*range(1, 91), *range(200, 260)],  # most of the first and all of the second
        range(300, 320),  # the third falls into equal parts
        range(320, 340),
        range(900, 999),
    ]
    found = descendants(members(early, comm), members(late, comm), comm)
    assert found["GroupID"].tolist() == [1, 2, 3, 4]
    assert found["Length"].tolist() == [100, 60, 40, 10]
    assert found["Descendant"].tolist() == [1, 1, 2, 0]
    np.testing.assert_allclose(found["Share"], [0.9, 1.0, 0.5, 0.0])


@pytest.mark.mpi(ranks=4)
def test_nothing_to_link(comm):
    none = {"ID": np.zeros(0, "u8"), "GroupID": np.zeros(0, "i8")}
    assert len(descendants(none, none, comm)["GroupID"]) == 0
    some = members([range(1, 9)], comm)
    assert descendants(some, none, comm)["Descendant"].tolist() == [0]
    assert progenitors(none, some, comm)["Progenitor"].tolist() == [0]
    assert len(progenitors(some, none, comm)["GroupID"]) == 0


def random_groups(random, number):
    """Disjoint groups of random particles, largest first, as sets."""
    cut = np.sort(random.choice(np.arange(1, 900), number, replace=False))
    groups = np.split(random.permutation(1000), cut)[:-1]
    return sorted((set(one.tolist()) for one in groups), key=len, reverse=True)


@pytest.mark.mpi(ranks=4)
@pytest.mark.parametrize("seed", range(5))
def test_main_progenitors_are_those_of_a_search_by_hand(comm, seed):
    random = np.random.default_rng(seed)
    early, late = random_groups(random, 30), random_groups(random, 12)
    found = progenitors(*(members(list(map(list, one)), comm) for one in (early, late)), comm)
    # max takes the first of equals, which is the larger halo
    became = [max(range(len(late)), key=lambda at, one=one: len(one & late[at])) for one in early]
    for at, halo in enumerate(late):
        mine = [i for i, one in enumerate(early) if became[i] == at and one & halo]
        main = max(mine, key=lambda i: len(early[i] & halo), default=None)
        assert found["Progenitor"][at] == (0 if main is None else main + 1)
        assert found["Number"][at] == len(mine)
        part = 0 if main is None else len(early[main] & halo) / len(halo)
        assert found["Share"][at] == pytest.approx(part)
    assert found["Length"].tolist() == [len(halo) for halo in late]


def test_one_seed_makes_one_universe_at_two_times(comm, data):
    """Particles of a halo at z = 4 are together at z = 2; with another seed they are not."""

    def halos(name, seed):
        low = open_snapshot(data / name, comm)
        return find_groups(SRCatalog(low, model="phases", factor=4, seed=seed), nmin=10)[1]

    early = halos("lr8_12p5_z4", 7)
    same = descendants(early, halos("lr8_12p5_z2", 7), comm)["Share"]
    other = descendants(early, halos("lr8_12p5_z2", 8), comm)["Share"]
    assert np.mean(same) > np.mean(other) + 0.1
