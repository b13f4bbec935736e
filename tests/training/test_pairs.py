import json
import shutil

import bigfile
import numpy as np
import pytest
from training_cases import fields, make_pair, write_pair

from nbodykit_sr.commands.train import PairsOptions
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import open_snapshot
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.physics.universe import Universe
from nbodykit_sr.training.matching import build_pair
from nbodykit_sr.training.pairs import Pair, alignment, open_pairs


def test_a_pair_comes_back(tmp_path):
    manifest = make_pair(tmp_path / "pair", seed=5, channels=6)
    lr, hr = fields(5, channels=6)
    pair = Pair(tmp_path / "pair")
    assert pair.manifest == manifest
    assert (manifest.factor, manifest.channels, manifest.Nmesh, manifest.cell) == (2, 6, 8, 1.5)
    assert np.array_equal(pair.lr, lr) and np.array_equal(pair.hr, hr)


def test_particles_keep_their_positions():
    """An HR lattice that is a whole number of sites off is renumbered, not moved."""
    hr = fields()[1]
    corner = LagrangianLattice(8, 12.0, 0.0)
    given = LagrangianLattice(16, 12.0, 0.5)
    sites = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), -1).reshape(-1, 3)
    refined = corner.refine(2)
    before = given.position(sites, hr[:, *sites.T].T)
    kept = np.roll(hr, alignment(corner, 2, given.offset), (1, 2, 3))[:, *sites.T].T
    after = refined.position(sites, kept)
    assert np.allclose(np.sort(before, 0), np.sort(after, 0), atol=1e-5)
    assert (refined.offset, given.offset) == (-0.5, 0.5)


def test_lattices_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="0.0000 of their cells.*PrePosGridCenter"):
        alignment(LagrangianLattice(8, 12.0, 0.0), 2, 0.0)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda hr: np.roll(hr, 8, 1), ["correlate", "0.98", "phases"]),
        (lambda hr: np.where(hr == hr[0, 0, 0, 0], np.nan, hr), ["1 values", "finite"]),
    ],
)
def test_what_does_not_match_is_refused(tmp_path, change, words):
    lr, hr = fields()
    with pytest.raises(InputError) as error:
        write_pair(tmp_path / "pair", lr, change(hr))
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "pair/manifest.json").exists()


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="no pairs match"):
        open_pairs([str(tmp_path / "none*")])
    make_pair(tmp_path / "pair")
    manifest = json.loads((tmp_path / "pair/manifest.json").read_text())
    for broken, words in [
        ("{", "no complete pair"),
        (json.dumps({**manifest, "Nmesh": 4}), "(3, 4"),
    ]:
        (tmp_path / "pair/manifest.json").write_text(broken)
        with pytest.raises(InputError) as error:
            open_pairs([str(tmp_path / "pair")])
        assert words in str(error.value)


def test_a_pair_named_twice_is_there_twice(tmp_path):
    make_pair(tmp_path / "a")
    make_pair(tmp_path / "b")
    pairs = open_pairs([str(tmp_path / "[ab]"), str(tmp_path / "a*")])
    assert [pair.folder.name for pair in pairs] == ["a", "a", "b"]


def test_pairs_of_two_kinds_do_not_mix(tmp_path):
    make_pair(tmp_path / "a")
    make_pair(tmp_path / "b", size=6)
    with pytest.raises(InputError, match="cell is 2"):
        open_pairs([str(tmp_path / "[ab]")])
    with pytest.raises(InputError, match="3 channels, 6"):
        open_pairs([str(tmp_path / "a")], channels=6)


@pytest.mark.mpi
def test_real_snapshots_make_a_pair(tmp_path, data, comm):
    lr, hr = data / "lr8_12p5_z2", data / "hr64_12p5_z2"
    options = PairsOptions(lr, hr, tmp_path / "pair", source="TreePM", seed=7)
    manifest = build_pair(options, comm)
    assert (manifest.Nmesh, manifest.factor, manifest.source, manifest.seed) == (8, 8, "TreePM", 7)
    assert manifest.a == pytest.approx(1 / 3) and manifest.BoxSize == 12.5
    assert manifest.cross_correlation > 0.98
    comm.Barrier()
    pair = Pair(tmp_path / "pair")
    for field, path, lattice in [
        (pair.lr, lr, manifest.lattice),
        (pair.hr, hr, manifest.lattice.refine(8)),
    ]:
        catalog = open_snapshot(path, comm)
        position, velocity, ids = catalog.compute(
            catalog["Position"], catalog["Velocity"], catalog["ID"]
        )
        site = lattice.site(ids)
        difference = lattice.position(site, field[:3, *site.T].T) - position
        difference -= 12.5 * np.rint(difference / 12.5)
        assert abs(difference).max() < 1e-5
        assert np.array_equal(field[3:, *site.T].T, velocity.astype("f4"))


@pytest.mark.mpi
@pytest.mark.parametrize(
    "lr, words",
    [
        ("lr8_12p5_z4", ["Time is 0.2 in LR", "0.33333333 in HR"]),
        ("lr16_25_z2", ["BoxSize is 25 in LR", "12.5 in HR"]),
        ("hr64_12p5_z2", ["LR has 262144 and HR 262144"]),
    ],
)
def test_snapshots_that_do_not_match(tmp_path, data, comm, lr, words):
    with pytest.raises(InputError) as error:
        build_pair(PairsOptions(data / lr, data / "hr64_12p5_z2", tmp_path / "pair"), comm)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "pair").exists()


@pytest.mark.mpi
def test_velocities_of_another_expansion_are_refused(tmp_path, data, comm):
    """Networks are trained in the units of flat LCDM, whatever is told of w0: H and f are others."""
    fluid = {"OmegaLambda": 0.0, "OmegaFld": 0.7186, "W0_Fld": -0.8}
    if comm.rank == 0:
        for name in ("lr8_12p5_z2", "hr64_12p5_z2"):
            path = shutil.copytree(data / name, tmp_path / name)
            with bigfile.File(str(path)) as file, file["Header"] as header:
                for attribute, value in fluid.items():
                    header.attrs[attribute] = value
    comm.Barrier()
    snapshots = [tmp_path / name for name in ("lr8_12p5_z2", "hr64_12p5_z2")]
    pace = Universe.of(open_snapshot(snapshots[0], comm).attrs).pace
    assert 0.97 < pace < 0.998
    with pytest.raises(InputError, match=f"linear velocities are {pace:.4g} of those of flat LCDM"):
        build_pair(PairsOptions(*snapshots, tmp_path / "pair"), comm)
    assert not (tmp_path / "pair").exists()
