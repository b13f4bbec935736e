"""A mesh keeps the promises of a catalogue: resumed, stopped, verified, never half."""

import os
import shlex
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import (
    assert_found,
    copy,
    emulate,
    ended,
    fill,
    forked,
    generate,
    kept,
    killed_after,
    poke,
    recorded,
    relabel,
    resumed_at_every_moment,
    run,
    start,
    tree,
    wait_until,
    without,
)
from helpers import saved_model
from mpi4py import MPI
from nbodykit.lab import BigFileMesh, FieldMesh
from test_disk import refused_at_every_write, small_disk  # noqa: F401

from nbodykit_sr import open_snapshot
from nbodykit_sr.chunks import ChunkGrid
from nbodykit_sr.commands.emulate import open_source
from nbodykit_sr.commands.verify import verify
from nbodykit_sr.density.mesh import SRMesh
from nbodykit_sr.density.painting import FRACTION, initial_overdensity
from nbodykit_sr.density.particles import painted
from nbodykit_sr.density.writer import MeshWriter, PaintedWriter
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.preflight import MESH, prepare_output
from nbodykit_sr.io.writer import WrongValues
from nbodykit_sr.models.density import DensityEmulator
from nbodykit_sr.models.generator import Generator
from nbodykit_sr.physics.background import growth_factor

COMM = MPI.COMM_SELF
CHUNKS = 8


@pytest.fixture(scope="module")
def arguments(data, tmp_path_factory):
    """Of the command, but for the output: (before it, after it)."""
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("model") / "w.safetensors"
    saved_model(path, DensityEmulator(filters=1), Omega_m=0.3)
    return (
        [data / "lr16_25_z2", data / "lr16_25_IC"],
        [f"--model={path}", "--nmesh=8", "--chunk=4"],
    )


def made(arguments, output, *more):
    return emulate(*arguments[0], output, *arguments[1], *more)


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """A mesh that was written in one go."""
    output = tmp_path_factory.mktemp("whole") / "SR"
    assert forked(lambda: made(arguments, output)) == 0
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


def header(seed):
    return {"SRSeed": str(seed), "SRModelHash": "none", "BoxSize": np.full(3, 10.0)}


def written(output, seed=7, overwrite=False, resume=False):
    """A small mesh by the writer itself, without fields or a model."""
    prepare_output(str(output), COMM, MESH, overwrite, resume)
    grid = ChunkGrid(5, 3)
    writer = MeshWriter(
        str(output), COMM, grid, header(seed), {"seed": "SRSeed"}, lambda total: total / 9
    )
    progress = (writer.resume if resume else writer.create)(overwrite)
    if progress.complete:
        return 0
    for chunk in grid.chunks():
        if chunk.index not in progress.done:
            writer.write(chunk, np.full(chunk.shape, seed + chunk.index, dtype="f4"))
    writer.finish(overwrite)
    return 0


def painted_one(output, seed=7, overwrite=False, resume=False):
    """A small mesh painted from chunks of particles, which lie across the edges of the box."""
    prepare_output(str(output), COMM, MESH, overwrite, resume)
    writer = PaintedWriter(
        str(output), COMM, ChunkGrid(5, 3), header(seed), {"seed": "SRSeed"}, CHUNKS,
        lambda total: (total / FRACTION**3).astype("f4"),
    )  # fmt: skip
    progress = (writer.resume if resume else writer.create)(overwrite)
    if progress.complete:
        return 0
    for chunk in ChunkGrid(4, 2).chunks():
        if chunk.index not in progress.done:
            rng = np.random.default_rng([seed, chunk.index])
            position = rng.normal(3 * chunk.index, 1.5, (3 + chunk.index, 3)) % 10
            writer.write(chunk, painted(position, 10, 5))
    writer.finish(overwrite)
    return 0


def test_a_painted_mesh_has_all_particles(tmp_path):
    assert painted_one(tmp_path / "SR") == 0
    values = np.fromfile(tmp_path / "SR/Field/000000", "f4")
    assert values.sum() == pytest.approx(sum(range(3, 3 + CHUNKS)), rel=1e-6)


@pytest.fixture
def small_files(monkeypatch):
    """Several files each, and no waiting for the disk: a kill loses nothing that was written."""
    monkeypatch.setattr("nbodykit_sr.io.rows.ROWS_PER_FILE", 60)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("overwrite", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [written, painted_one])
def test_killed_at_every_moment_and_resumed(tmp_path, small_files, make, overwrite):
    assert resumed_at_every_moment(tmp_path, make, overwrite) > 60
    assert {"Field/000002", "Field/attr-v2"} <= tree(tmp_path / "whole").keys()


@pytest.mark.parametrize("make", [written, painted_one])
def test_full_at_every_write(tmp_path, small_files, make):
    assert refused_at_every_write(tmp_path, make) > 30


@pytest.mark.parametrize("rank, moment", [(0, 55), pytest.param(1, 4, marks=pytest.mark.slow)])
def test_two_ranks_killed_and_one_resumes(arguments, whole, tmp_path, rank, moment):
    output, trouble = tmp_path / "SR", f"{rank}:{moment}"
    status, _, _ = ended(
        start(2, *arguments[0], output, *arguments[1], trouble=trouble, command="emulate")
    )
    assert status != 0
    assert forked(lambda: made(arguments, output, "--resume")) == 0
    assert tree(output) == tree(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["SR"]


@pytest.fixture(scope="module")
def of_particles(data, tmp_path_factory):
    """As `arguments`, of a density by particles: a model of two levels, 32^3 initial conditions."""
    folder = tmp_path_factory.mktemp("particles")
    torch.manual_seed(4)
    network = Generator(6, 4, 8, 4, convex=2, phases=True)
    saved_model(folder / "w.safetensors", network, amplitude=(1e-3, 10.0))
    initial = open_snapshot(data / "lr16_25_IC", COMM)
    growth = growth_factor(initial.attrs["Time"], initial.attrs["Omega0"])
    coarse = FieldMesh(initial_overdensity(initial, 16, growth))
    mesh = FieldMesh(coarse.compute(mode="real", Nmesh=32))
    mesh.attrs["Redshift"] = 0.0
    mesh.save(str(folder / "IC"), dataset="Field")
    options = ["--by=particles", f"--model={folder / 'w.safetensors'}", "--chunk=8"]
    return [data / "lr16_25_z2", folder / "IC"], options


def test_a_density_by_particles_killed_on_two_ranks(of_particles, tmp_path, capfd):
    before, after = of_particles
    whole, output = tmp_path / "whole", tmp_path / "SR"
    assert forked(lambda: made(of_particles, whole)) == 0
    assert run("verify", whole) == 0
    mesh = BigFileMesh(str(whole), "Field", comm=COMM)
    model = after[1].partition("=")[2]
    same = SRMesh(*map(str, before), model=model, by="particles", chunk=8)
    assert np.array_equal(mesh.compute().value, same.compute().value)
    words = shlex.split(str(mesh.attrs["SRCommand"]))
    assert words[3:6] == ["emulate", *map(str, before)] and "--by=particles" in words
    status, _, _ = ended(start(2, *before, output, *after, trouble="kill:1", command="emulate"))
    assert status != 0 and 0 < recorded(output) < CHUNKS and not output.exists()
    capfd.readouterr()
    assert made(of_particles, output, "--chunk=4", "--resume") == 2
    assert "was begun with chunk 8, not 4" in capfd.readouterr().err
    assert forked(lambda: made(of_particles, output, "--resume")) == 0
    assert tree(output) == tree(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SR", "whole"]


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
        assert forked(lambda f=folder: made(arguments, f / "SR", "--resume")) == 0, folder
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
        assert forked(lambda o=option: made(arguments, output, o, "--resume")) == 2 << 8
        assert tree(partial) == begun, said
    assert forked(lambda: made(arguments, output)) == 2 << 8  # not without being asked
    assert forked(lambda: made(arguments, output, "--resume")) == 0
    assert tree(output) == tree(whole)
    assert forked(lambda: made(arguments, output, "--resume")) == 0  # it is complete
    assert tree(output) == tree(whole)


def test_a_mesh_leaves_the_unfinished_catalogue_of_its_name(arguments, data, tmp_path, capfd):
    output = tmp_path / "SR"
    words = [data / "lr8_12p5_z2", output, "--model=interpolate", "--factor=2", "--chunk=4"]
    killed_after(1, lambda: generate(*words))
    before = tree(tmp_path)
    assert recorded(output)
    for option in ([], ["--overwrite"], ["--resume"]):
        assert made(arguments, output, *option) == 2
        assert "is not of this command" in capfd.readouterr().err
        assert tree(tmp_path) == before
    assert generate(*words, "--resume") == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e-3])
def test_wrong_values_are_never_written(tmp_path, value):
    grid = ChunkGrid(4, 4)
    writer = MeshWriter(tmp_path / "SR", COMM, grid, {"SRSeed": "1"}, {"seed": "SRSeed"}, float)
    writer.create()
    values = np.ones((4, 4, 4), "f4")
    values[1, 2, 3] = value
    with pytest.raises(WrongValues, match="chunk 0 has densities"):
        writer.write(grid.chunks()[0], values)
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
    assert run("verify", whole) == 0
    assert "is sound" in capfd.readouterr().out
    assert run("verify") == 2


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_mesh(whole, tmp_path, name, capfd):
    output = copy(whole, tmp_path / "SR")
    change, says = DAMAGE[name]
    change(output)
    assert_found(output, says, capfd)


@pytest.mark.mpi
def test_verify_and_write_under_ranks(comm, arguments, tmp_path):
    from nbodykit_sr.commands.emulate import main

    argv = [*map(str, arguments[0]), str(tmp_path / "SR"), *arguments[1]]
    argv[3] = f"--model={comm.bcast(argv[3].partition('=')[2])}"
    assert main(argv, comm) == 0
    assert verify(str(tmp_path / "SR"), comm) == []


def test_provenance_makes_it_again(whole, tmp_path):
    words = shlex.split(str(BigFileMesh(str(whole), "Field", comm=COMM).attrs["SRCommand"]))
    assert words[:4] == ["python", "-m", "nbodykit_sr", "emulate"]
    words = [str(tmp_path / "SR") if word == "OUTPUT" else word for word in words[4:]]
    assert forked(lambda: emulate(*words)) == 0
    assert tree(tmp_path / "SR") == tree(whole)


def test_full_disk(arguments, whole, small_disk, capfd):  # noqa: F811
    """The disk is filled by somebody else during the run; with room again it goes on."""
    output, filler = small_disk / "SR", small_disk / "filler"

    words, trouble = [*arguments[0], output, *arguments[1]], f"full:{CHUNKS // 2}"
    status, _, err = ended(start(None, *words, trouble=trouble, command="emulate"))
    assert status != 0
    assert "No space left on device" in err and "Traceback" not in err
    assert recorded(output) and not output.exists()
    filler.unlink()
    assert forked(lambda: made(arguments, output, "--resume")) == 0
    assert tree(output) == tree(whole)
    begun = time.monotonic()
    fill(filler)
    assert made(arguments, small_disk / "other") == 2 and time.monotonic() - begun < 60
    assert "free" in capfd.readouterr().err
