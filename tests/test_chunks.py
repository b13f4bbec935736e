"""The chunk grid tiles the lattice and is shared among any number of ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbodykit_sr.chunks import ChunkGrid, default_grid
from nbodykit_sr.errors import InputError


@st.composite
def grids(draw):
    Nmesh = draw(st.integers(1, 14))
    return ChunkGrid(Nmesh, draw(st.integers(1, Nmesh)))


@given(grids())
def test_chunks_tile_the_lattice_in_storage_order(grid):
    count, stored = np.zeros((grid.Nmesh,) * 3, dtype=int), 0
    for index, chunk in enumerate(grid.chunks()):
        assert (chunk.index, chunk.offset) == (index, stored)
        stored += chunk.size
        count[tuple(slice(s, s + n) for s, n in zip(chunk.start, chunk.shape))] += 1
    assert (count == 1).all() and stored == grid.size == grid.Nmesh**3


@given(grids(), st.integers(1, 40))
def test_every_rank_owns_chunks_and_every_chunk_a_rank(grid, ranks):
    chunks = int(np.prod(grid.counts))
    if ranks > chunks:
        with pytest.raises(InputError, match="smaller chunks or fewer ranks"):
            grid.blocks(ranks)
        return
    owned = [grid.chunks(block) for block in grid.blocks(ranks)]
    assert len(owned) == ranks and all(owned)
    assert sorted(c.index for part in owned for c in part) == list(range(chunks))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 7, 8, 13, 16, 61, 64])
def test_the_load_is_balanced(ranks):
    loads = [len(ChunkGrid(64, 16).chunks(b)) for b in ChunkGrid(64, 16).blocks(ranks)]
    assert max(loads) <= 1.7 * 64 / ranks + 1


@pytest.mark.parametrize("ranks, shape", [(64, (2, 2, 2)), (512, (1, 1, 1)), (32, (2, 2, 4))])
def test_blocks_are_compact(ranks, shape):
    """So that their padding, which is what ranks exchange, is small."""
    for block in ChunkGrid(64, 8).blocks(ranks):
        assert sorted(last - first for first, last in block) == sorted(shape)


@pytest.mark.parametrize("Nmesh", [1, 2, 8, 16, 61, 64, 100, 640])
def test_default_sides(Nmesh):
    side = default_grid(Nmesh).side
    assert 1 <= side <= 16 and (Nmesh < 2 or -(-Nmesh // side) >= 2)
    assert [default_grid(n).side for n in (64, 16, 61)] == [16, 8, 16]
    for ranks in (1, 3, 8, 9, 100):
        if ranks <= Nmesh**3:
            default_grid(Nmesh, ranks).blocks(ranks)


def test_ranks_that_share_a_region_get_smaller_chunks():
    region = ((0.0, 20.0),) * 3  # of 64 cells of 1.5625: 12.8 of them
    grids = [default_grid(64, ranks, region=region, cell=1.5625) for ranks in (1, 2, 8, 9)]
    assert [grid.side for grid in grids] == [16, 8, 8, 4]
    one_site = default_grid(64, 2, region=((0.0, 1.0),) * 3, cell=1.5625)
    with pytest.raises(InputError, match="fewer ranks"):
        one_site.blocks(2)


def test_a_region_selects_what_meets_it():
    grid = ChunkGrid(16, 4)
    part = grid.select(((0, 6.25), (6.0, 6.5), (24.0, 26.0)), 25 / 16)
    assert part.rows == ((0,), (0, 1), (3, 0))
    assert part.size == 1 * 2 * 2 * 4**3
    starts = {chunk.start for chunk in part.chunks()}
    assert starts == {(0, 0, 12), (0, 0, 0), (0, 4, 12), (0, 4, 0)}
    assert grid.select(((-100, 100),) * 3, 25 / 16).size == 16**3


def test_fine_sites_of_a_chunk():
    chunk = ChunkGrid(4, 2).chunks()[-1]
    sites = chunk.sites(factor=2)
    assert len(sites) == 8 * chunk.size
    assert sites.min() == 4 and sites.max() == 7
    assert (np.diff(sites[:, 0]) >= 0).all() and tuple(sites[1]) == (4, 4, 5)


def test_senseless_grids_are_refused():
    with pytest.raises(InputError, match="chunk is 17"):
        ChunkGrid(16, 17)
    with pytest.raises(InputError, match="region along y"):
        ChunkGrid(16, 4).select(((0, 1), (3, 2), (0, 1)), 1.0)
