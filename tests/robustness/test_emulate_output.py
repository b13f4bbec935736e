"""A mesh keeps the promises of a catalogue: resumed, stopped, verified, never half."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import (
    copy,
    emulate,
    ended,
    environment,
    forked,
    generate,
    kept,
    poke,
    recorded,
    relabel,
    resumed_at_every_moment,
    start,
    tree,
    wait_until,
    without,
)
from mpi4py import MPI
from nbodykit.lab import BigFileMesh
from test_disk import refused_at_every_write, small_disk  # noqa: F401

from nbodykit_sr.chunks import ChunkGrid
from nbodykit_sr.emulate import open_source
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.mesh import MeshWriter
from nbodykit_sr.io.preflight import MESH, prepare_output
from nbodykit_sr.io.writer import WrongValues
from nbodykit_sr.mesh import SRMesh
from nbodykit_sr.models.card import ModelCard, save_model
from nbodykit_sr.models.density import DensityEmulator
from nbodykit_sr.verify import verify

COMM = MPI.COMM_SELF
CHUNKS = 8


@pytest.fixture(scope="module")
def arguments(data, tmp_path_factory):
    """Of the command, but for the output: (before it, after it)."""
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("model") / "w.safetensors"
    network = DensityEmulator(filters=1)
    save_model(
        path, network, ModelCard("untrained", "density", network.arguments, 2, 1, Omega_m=0.3)
    )
    return (
        [data / "lr16_25_z2", data / "lr16_25_IC"],
        [f"--model={path}", "--nmesh=8", "--chunk=4"],
    )


def run(arguments, output, *more):
    return emulate(*arguments[0], output, *arguments[1], *more)


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """A mesh that was written in one go."""
    output = tmp_path_factory.mktemp("whole") / "SR"
    assert forked(lambda: run(arguments, output)) == 0
    return output


def test_it_is_what_the_mesh_itself_saves(arguments, whole, tmp_path):
    sources = (open_source(str(path), COMM) for path in arguments[0])
    mesh = SRMesh(*sources, model=arguments[1][0].partition("=")[2], Nmesh=8, chunk=4)
    mesh.save(str(tmp_path / "saved"))
    saved = BigFileMesh(str(tmp_path / "saved"), "Field", comm=COMM)
    written = BigFileMesh(str(whole), "Field", comm=COMM)
    assert np.array_equal(saved.compute().value, written.compute().value)
    files = [tree(path / "Field") for path in (tmp_path / "saved", whole)]
    assert files[0]["header"] == files[1]["header"]
    for name, value in saved.attrs.items():
        assert np.array_equal(written.attrs[name], value), name


def written(output, seed=7, overwrite=False, resume=False):
    """A small mesh by the writer itself, without fields or a model."""
    prepare_output(str(output), COMM, MESH, overwrite, resume)
    grid = ChunkGrid(5, 3)
    header = {"SRSeed": str(seed), "SRModelHash": "none", "BoxSize": np.full(3, 10.0)}
    writer = MeshWriter(
        str(output), COMM, grid, header, {"seed": "SRSeed"}, lambda total: total / 9
    )
    progress = (writer.resume if resume else writer.create)(overwrite)
    if progress.complete:
        return 0
    for chunk in grid.chunks():
        if chunk.index not in progress.done:
            values = np.full(chunk.shape, seed + chunk.index, dtype="f4")
            writer.write(chunk.index, chunk.offset, values, int(values.sum()))
    writer.finish(overwrite)
    return 0


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr("nbodykit_sr.io.rows.ROWS_PER_FILE", 60)


@pytest.mark.parametrize("overwrite", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_at_every_moment_and_resumed(tmp_path, small_files, overwrite):
    assert resumed_at_every_moment(tmp_path, written, overwrite) > 60
    assert {"Field/000002", "Field/attr-v2"} <= tree(tmp_path / "whole").keys()


def test_full_at_every_write(tmp_path, small_files):
    assert refused_at_every_write(tmp_path, written) > 30


@pytest.mark.parametrize("rank, moment", [(0, 55), (1, 4)])
def test_two_ranks_killed_and_one_resumes(arguments, whole, tmp_path, rank, moment):
    output, trouble = tmp_path / "SR", f"{rank}:{moment}"
    status, _, _ = ended(
        start(2, *arguments[0], output, *arguments[1], trouble=trouble, command="emulate")
    )
    assert status != 0
    assert forked(lambda: run(arguments, output, "--resume")) == 0
    assert tree(output) == tree(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["SR"]


@pytest.mark.slow
@pytest.mark.parametrize("rank, actions", [(0, 50), (1, 10)])
def test_one_goes_on_from_every_moment_of_two_ranks(arguments, whole, tmp_path, rank, actions):
    """What a kill would leave is copied at each action of a rank while the other is held."""
    output, trouble = tmp_path / "SR", f"{rank}:all"
    status, _, err = ended(
        start(2, *arguments[0], output, *arguments[1], trouble=trouble, command="emulate")
    )
    assert status == 0 and tree(output) == tree(whole), err
    moments = kept(output)
    assert len(moments) >= actions
    for folder in moments:
        assert forked(lambda f=folder: run(arguments, f / "SR", "--resume")) == 0, folder
        assert tree(folder / "SR") == tree(whole), folder
        assert [path.name for path in folder.iterdir()] == ["SR"]


def test_a_signal_stops_in_order(arguments, whole, tmp_path):
    output = tmp_path / "SR"
    process = start(2, *arguments[0], output, *arguments[1], trouble="slow:0.7", command="emulate")
    wait_until(lambda: recorded(output), process)
    os.kill(process.pid, signal.SIGUSR1)
    status, _, err = ended(process, patience=60)
    assert status == 75, err
    assert err.count("go on with --resume") == 1
    before = recorded(output)
    assert 0 < before < CHUNKS and not output.exists()
    partial = Path(f"{output}.partial")
    for path in (output, partial, partial / "mesh"):  # it is not mistaken for a mesh
        with pytest.raises(InputError):
            open_source(str(path), COMM)
    begun = tree(partial)
    for option, said in (("--chunk=2", "chunk 4, not 2"), ("--initial-redshift=99", "redshift")):
        assert forked(lambda o=option: run(arguments, output, o, "--resume")) == 2 << 8
        assert tree(partial) == begun, said
    assert forked(lambda: run(arguments, output)) == 2 << 8  # not without being asked
    assert forked(lambda: run(arguments, output, "--resume")) == 0
    assert tree(output) == tree(whole)
    assert forked(lambda: run(arguments, output, "--resume")) == 0  # it is complete
    assert tree(output) == tree(whole)


def test_a_mesh_leaves_the_unfinished_catalogue_of_its_name(arguments, data, tmp_path, capfd):
    output = tmp_path / "SR"
    process = start(
        1, data / "lr8_12p5_z2", output, "--model=interpolate", "--factor=2", "--chunk=4",
        trouble="kill:0",
    )  # fmt: skip
    ended(process)
    before = tree(tmp_path)
    assert recorded(output)
    for option in ([], ["--overwrite"], ["--resume"]):
        assert run(arguments, output, *option) == 2
        assert "is not of this command" in capfd.readouterr().err
        assert tree(tmp_path) == before
    assert generate(
        data / "lr8_12p5_z2", output, "--model=interpolate", "--factor=2", "--chunk=4", "--resume"
    ) == 0  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e-3])
def test_wrong_values_are_never_written(tmp_path, value):
    grid = ChunkGrid(4, 4)
    writer = MeshWriter(tmp_path / "SR", COMM, grid, {"SRSeed": "1"}, {"seed": "SRSeed"}, float)
    writer.create()
    values = np.ones((4, 4, 4), "f4")
    values[1, 2, 3] = value
    with pytest.raises(WrongValues, match="chunk 0 has densities"):
        writer.write(0, 0, values, 0)
    with pytest.raises(InputError, match="record 0 rows of 64"):
        writer.finish()
    writer.run.lock.release()


def swap_cells(path):
    content = bytearray((path / "Field/000000").read_bytes())
    content[0:4], content[4:8] = content[4:8], content[0:4]
    (path / "Field/000000").write_bytes(content)


DAMAGE = {
    "a bit": (lambda p: poke(p / "Field/000000", 3, b"\1"), "checksum"),
    "NaN": (lambda p: poke(p / "Field/000000", 0, b"\0\0\xc0\x7f"), "negative or not finite"),
    "cells swapped": (swap_cells, "Field is not what was written, or in another order"),
    "truncated": (lambda p: os.truncate(p / "Field/000000", 80), "truncated"),
    "Nmesh": (lambda p: relabel(p, "SRNmesh", np.array([18]), "Field"), "rows|makes no sense"),
    "shape": (
        lambda p: relabel(p, "ndarray.shape", np.array([8, 16, 32]), "Field"),
        "ndarray.shape",
    ),
    "card": (lambda p: relabel(p, "SRCard", "{}", "Field"), "makes no sense"),
    "a line of blanks": (lambda p: poke(p / "Field/attr-v2", 0, b"\r\n"), "is damaged"),
    "no model": (lambda p: without(p, "SRModelHash", "Field"), "is no mesh of emulate"),
    "no checksums": (lambda p: (p / "checksums").unlink(), "checksums is unreadable"),
}


def test_a_sound_mesh(whole, capfd):
    assert emulate("verify", whole) == 0
    assert "is sound" in capfd.readouterr().out
    assert emulate("verify") == 2


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_mesh(whole, tmp_path, name, capfd):
    output = copy(whole, tmp_path / "SR")
    change, says = DAMAGE[name]
    change(output)
    status = emulate("verify", output)
    said = "".join(capfd.readouterr())
    assert status in (1, 2) and "Traceback" not in said
    assert says.split("|")[0] in said or says.split("|")[-1] in said, said


@pytest.mark.mpi
def test_verify_and_write_under_ranks(comm, arguments, tmp_path):
    from nbodykit_sr.emulate import main

    argv = [*map(str, arguments[0]), str(tmp_path / "SR"), *arguments[1]]
    argv[3] = f"--model={comm.bcast(argv[3].partition('=')[2])}"
    assert main(argv, comm) == 0
    assert verify(str(tmp_path / "SR"), comm) == []


def test_provenance_makes_it_again(whole, tmp_path):
    words = shlex.split(str(BigFileMesh(str(whole), "Field", comm=COMM).attrs["SRCommand"]))
    words = [str(tmp_path / "SR") if word == "OUTPUT" else word for word in words[1:]]
    subprocess.run([sys.executable, *words], env=environment(), check=True, timeout=240)
    assert tree(tmp_path / "SR") == tree(whole)


def test_full_disk(arguments, whole, small_disk, capfd):  # noqa: F811
    """The disk is filled by somebody else during the run; with room again it goes on."""
    output, filler = small_disk / "SR", small_disk / "filler"

    def filled():
        write = MeshWriter.write

        def fill(self, index, *details):
            if index == CHUNKS // 2:
                free = os.statvfs(small_disk)
                filler.write_bytes(bytes(free.f_bavail * free.f_bsize))
            write(self, index, *details)

        MeshWriter.write = fill
        return run(arguments, output)

    assert forked(filled) != 0
    err = capfd.readouterr().err
    assert "No space left on device" in err and "Traceback" not in err
    assert recorded(output) and not output.exists()
    filler.unlink()
    assert forked(lambda: run(arguments, output, "--resume")) == 0
    assert tree(output) == tree(whole)
    begun = time.monotonic()
    filler.write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize))
    assert run(arguments, small_disk / "other") == 2 and time.monotonic() - begun < 60
    assert "free" in capfd.readouterr().err
