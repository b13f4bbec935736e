"""The command ``python -m nbodykit_sr emulate``."""

import numpy as np
import pytest
import torch
from helpers import saved_model
from mpi4py import MPI
from nbodykit.lab import ArrayMesh, BigFileMesh, FFTPower

from nbodykit_sr.commands import emulate
from nbodykit_sr.commands.command import enter
from nbodykit_sr.density.mesh import SRMesh
from nbodykit_sr.models.density import DensityEmulator

pytestmark = pytest.mark.mpi


@pytest.fixture
def weights(tmp_path, comm):
    torch.manual_seed(4)
    path = tmp_path / "w.safetensors"
    return str(saved_model(path, DensityEmulator(filters=1), comm, Omega_m=0.3))


def status(comm, *arguments):
    """Exit status of the command, the same on all ranks."""
    with pytest.raises(SystemExit) as stop:
        enter(emulate.main, "emulate", comm, [str(a) for a in arguments])
    (code,) = set(comm.allgather(stop.value.code))
    return code


def test_from_snapshots_to_a_mesh(comm, weights, data, tmp_path, capsys):
    lr, initial, out = data / "lr16_25_z2", data / "lr16_25_IC", tmp_path / "out"
    options = ("--model", weights, "--nmesh", 8, "--chunk", 4)
    assert status(comm, lr, initial, out, *options) == 0
    mesh = BigFileMesh(str(out), "Field", comm=comm)
    assert mesh.attrs["Nmesh"].tolist() == [16] * 3
    field = mesh.compute()
    assert field.cmean() == pytest.approx(1, abs=1e-6)
    assert comm.allreduce(float(field.value.min(initial=0)), op=MPI.MIN) >= 0
    assert np.isfinite(FFTPower(mesh, mode="1d").power["power"].real[1:-1]).all()
    source = (emulate.open_source(str(path), MPI.COMM_SELF) for path in (lr, initial))
    alone = SRMesh(*source, model=weights, Nmesh=8, chunk=4).compute()
    assert all(comm.allgather(np.array_equal(field.value, alone.value[tuple(field.slices)])))
    # a finished output is kept unless told
    assert status(comm, lr, initial, out, *options) == 2
    assert status(comm, lr, initial, out, *options, "--overwrite") == 0


def test_from_meshes(comm, weights, data, tmp_path):
    lr, initial = tmp_path / "lr", tmp_path / "initial"
    rng = np.random.default_rng(1)
    fine = rng.normal(size=(8,) * 3) + 0.5
    for path, values, z in ((lr, np.ones((4,) * 3), 0.0), (initial, fine - fine.mean(), 0.0)):
        mesh = ArrayMesh(values, BoxSize=20.0, comm=comm)
        mesh.attrs.update(Redshift=z, Omega0=0.3)
        mesh.save(str(path), dataset="Field", mode="real")
    arguments = (lr, initial, tmp_path / "out", "--model", weights, "--chunk", 2)
    # a uniform density cannot follow any initial conditions
    assert status(comm, *arguments) == 2
    assert status(comm, *arguments, "--force") == 0
    assert BigFileMesh(str(tmp_path / "out"), "Field", comm=comm).attrs["SROrigin"] == -0.5


def test_one_clear_line(comm, weights, data, tmp_path, capfd):
    lr, initial = data / "lr16_25_z2", data / "lr16_25_IC"
    out = tmp_path / "out"
    for arguments, words in (
        ((lr, initial, out), "32 are needed, twice LR"),
        ((tmp_path / "nothing", initial, out), "does not exist"),
        ((data, initial, out), "no snapshot, no mesh of that name"),
        ((lr, data / "lr8_12p5_z2", out), "of one box"),
        ((lr, initial, tmp_path / "no" / "out"), "does not exist: make it first"),
        ((lr, initial, out, "--chunks", 3), "see --help"),
    ):
        assert status(comm, *arguments, "--model", weights) == 2
        lines = capfd.readouterr().err.splitlines()
        lines = [line for line in lines if line.startswith("nbodykit-sr emulate:")]
        if comm.rank == 0:
            assert len(lines) == 1, lines
            assert words in lines[0]
    assert not out.exists()


def test_the_plan_writes_nothing(comm, weights, data, tmp_path, capsys):
    options = ("--model", weights, "--nmesh", 8, "--chunk", 4, "--plan")
    assert status(comm, data / "lr16_25_z2", data / "lr16_25_IC", tmp_path / "out", *options) == 0
    said = capsys.readouterr().out
    for words in ("16^3", "s a chunk", "memory", "disk"):
        assert comm.rank or words in said
    assert not list(tmp_path.glob("out*"))
