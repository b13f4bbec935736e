"""The example that makes matched pairs: right layout, matched phases, close to real TreePM runs."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import open_snapshot
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.training.pairs import MATCHED, cross_correlation

pytest.importorskip("fastpm")


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).parents[2] / "examples" / "make_pairs.py"
    spec = importlib.util.spec_from_file_location("make_pairs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fields(path, comm):
    """Displacement and velocity of a whole snapshot by site (N, N, N, 6), on every rank."""
    catalog = open_snapshot(str(path), comm=comm)
    total = catalog.csize
    lattice = LagrangianLattice(round(total ** (1 / 3)), catalog.attrs["BoxSize"][0], 0.5)
    ids, position, velocity = catalog.compute(
        catalog["ID"], catalog["Position"], catalog["Velocity"]
    )
    local = np.concatenate([lattice.displacement(lattice.site(ids), position), velocity], axis=1)
    out = np.zeros((total, 6))
    out[np.asarray(ids).astype(int) - 1] = local
    out = comm.allreduce(out)
    return out.reshape((lattice.Nmesh,) * 3 + (6,)), catalog.attrs


@pytest.mark.mpi
def test_pairs_are_snapshots_with_matched_phases(example, comm, tmp_path):
    example.main(
        [str(tmp_path), "--seeds", "5", "--redshifts", "4", "2", "--nmesh", "8", "--factor", "2",
         "--boxsize", "12.5", "--step", "0.05"],
        comm,
    )  # fmt: skip
    lr, attrs = fields(tmp_path / "5" / "LR_z2", comm)
    hr, hr_attrs = fields(tmp_path / "5" / "HR_z2", comm)
    assert lr.shape == (8, 8, 8, 6) and hr.shape == (16, 16, 16, 6)
    np.testing.assert_allclose(attrs["Redshift"], 2, rtol=1e-12)
    assert attrs["Omega0"] == hr_attrs["Omega0"] == pytest.approx(0.2814)
    # both lattices are centred: no mean displacement
    assert np.abs(lr[..., :3].mean((0, 1, 2))).max() < 1e-3
    assert np.abs(hr[..., :3].mean((0, 1, 2))).max() < 1e-3
    # LR and HR agree on the largest scales, in displacement and in velocity
    lr_fields, hr_fields = np.moveaxis(lr, -1, 0), np.moveaxis(hr, -1, 0)
    assert cross_correlation(lr_fields[:3], hr_fields[:3]) > MATCHED
    assert cross_correlation(lr_fields[3:], hr_fields[3:]) > 0.9
    # a snapshot at another time of the same run is no copy
    early, _ = fields(tmp_path / "5" / "LR_z4", comm)
    assert 0.5 < early[..., :3].std() / lr[..., :3].std() < 0.7


def test_lr_run_follows_treepm(example, comm, tmp_path, data):
    """The same seed gives what MP-Gadget gives, but for 6% of the displacements."""
    example.main(
        [str(tmp_path), "--seeds", "181210", "--unitary", "--boxsize", "25", "--factor", "1"], comm
    )
    made, _ = fields(tmp_path / "181210" / "LR_z2", comm)
    true, _ = fields(data / "lr16_25_z2", comm)
    difference = made[..., :3] - true[..., :3]
    assert difference.std() < 0.06 * true[..., :3].std()
    assert 0.95 < made[..., 3:].std() / true[..., 3:].std() < 1.05


@pytest.mark.slow
def test_hr_run_follows_treepm(example, tmp_path, data):
    comm = MPI.COMM_SELF
    example.main(
        [str(tmp_path), "--seeds", "181210", "--unitary", "--boxsize", "12.5", "--nmesh", "8"], comm
    )
    made, _ = fields(tmp_path / "181210" / "HR_z2", comm)
    true, _ = fields(data / "hr64_12p5_z2", comm)
    difference = made[..., :3] - true[..., :3]
    assert difference.std() < 0.1 * true[..., :3].std()


def test_time_steps(example):
    stages = example.time_steps([1 / 3, 0.2], 0.01)
    assert stages[0] == 0.01 and stages[-1] == 1 / 3 and 0.2 in stages
    steps = np.diff(stages)
    assert (steps > 0).all() and steps.max() <= 0.0101


def test_bad_arguments(example, tmp_path):
    for wrong in (["--boxsize", "-1"], ["--nmesh", "0"], ["--redshifts", "120"]):
        with pytest.raises(InputError):
            example.arguments([str(tmp_path), "--seeds", "1", *wrong])
