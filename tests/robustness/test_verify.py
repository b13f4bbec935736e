"""Catalogues that are wrong are found, and right ones can be made again, bit for bit."""

import json
import logging
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from commands import (
    assert_found,
    copy,
    ended,
    forked,
    generate,
    poke,
    relabel,
    run,
    start,
    tree,
    without,
)
from helpers import saved_model
from mpi4py import MPI

from nbodykit_sr import open_snapshot
from nbodykit_sr.catalog import SRCatalog
from nbodykit_sr.commands.expectation import Expectation
from nbodykit_sr.commands.generate import main
from nbodykit_sr.commands.verify import verify
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.layout import LAYOUTS, NBODYKIT
from nbodykit_sr.io.particles import SnapshotWriter
from nbodykit_sr.io.writer import WrongValues
from nbodykit_sr.models.card import ModelCard
from nbodykit_sr.models.generator import Generator
from nbodykit_sr.physics.universe import Universe

OPTIONS = ["--model=interpolate", "--seed=7", "--factor=2", "--chunk=4"]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """A run with a network, and with noise in it."""
    torch.manual_seed(0)
    network = Generator(6, 2, chan_base=2, chan_min=2)
    for name, parameter in network.named_parameters():
        if name.endswith("std"):
            parameter.data += 0.1
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    saved_model(path, network, name="small", Omega_m=0.28)
    return [f"--model={path}", "--seed=7", "--chunk=4"]


@pytest.fixture(scope="module")
def sound(data, options, tmp_path_factory):
    """A catalogue in each layout, and one of a region."""
    folder = tmp_path_factory.mktemp("sound")
    for name, more in (
        ("nbodykit", []),
        ("mp-gadget", ["--layout=mp-gadget"]),
        ("gadget-hdf5", ["--layout=gadget-hdf5"]),
        ("region", ["--region=3:6,0:12.5,-2:1"]),
    ):
        words = [data / "lr8_12p5_z2", folder / name, *options, *more]
        assert forked(partial(generate, *words)) == 0
    return folder


@pytest.mark.parametrize("name", [*LAYOUTS, "region"])
def test_a_sound_catalogue(sound, name, capfd):
    assert verify(str(sound / name), MPI.COMM_SELF) == []
    assert run("verify", sound / name) == 0
    assert "is sound" in capfd.readouterr().out


@pytest.mark.mpi
def test_verify_under_ranks(comm, data, tmp_path):
    output = tmp_path / "SR"
    words = [str(data / "lr8_12p5_z2"), str(output), *OPTIONS[:-1], "--chunk=2"]
    assert main(words, comm) == 0
    assert verify(str(output), comm) == []
    comm.Barrier()
    if comm.rank == 0:
        poke(output / "ID" / "000000", 8 * 1000, b"\1")
    comm.Barrier()
    problems = comm.allgather(verify(str(output), comm))
    assert problems == [problems[0]] * comm.size and len(problems[0]) == 3


def swap_bytes(path):
    """Damage that a sum of bytes does not see."""
    content = bytearray(path.read_bytes())
    content[0:8], content[8:16] = content[8:16], content[0:8]
    path.write_bytes(content)


DAMAGE = {
    "a bit": (lambda p: poke(p / "Position/000000", 7, b"\0"), "checksum"),
    "NaN": (
        lambda p: poke(p / "Position/000000", 0, np.float32(np.nan).tobytes()),
        "not in the box",
    ),
    "outside": (
        lambda p: poke(p / "Position/000000", 0, np.float32(13).tobytes()),
        "not in the box",
    ),
    "velocity": (
        lambda p: poke(p / "Velocity/000000", 0, np.float32(np.inf).tobytes()),
        "Velocity is not finite",
    ),
    "IDs swapped": (lambda p: swap_bytes(p / "ID/000000"), "IDs are not those of its sites"),
    "particles swapped": (
        lambda p: (p / "Position/000000").write_bytes(rolled((p / "Position/000000").read_bytes())),
        "from their lattice sites",
    ),
    "velocities swapped": (
        lambda p: swap_bytes(p / "Velocity/000000"),
        "Velocity is not what was written, or in another order",
    ),
    "checksums": (lambda p: poke(p / "checksums", 100, b"0"), "SRChecksums"),
    "seed missing": (lambda p: without(p, "SRSeed"), "lacks SRSeed"),
    "Nmesh": (lambda p: relabel(p, "SRNmesh", np.array([18])), "makes no sense|rows"),
    "column missing": (lambda p: (p / "Velocity").rename(p / "Other"), "columns"),
    "BoxSize": (lambda p: relabel(p, "BoxSize", np.array([12.5])), "BoxSize has length 1"),
    "truncated": (lambda p: os.truncate(p / "ID/000000", 8000), "truncated"),
    "card": (lambda p: relabel(p, "SRCard", "{}"), "makes no sense"),
}


def rolled(content):
    """The particles in the order of sites half a box away."""
    return content[len(content) // 2 :] + content[: len(content) // 2]


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_catalogue(sound, tmp_path, name, capfd):
    output = copy(sound / "nbodykit", tmp_path / "SR")
    change, says = DAMAGE[name]
    change(output)
    assert_found(output, says, capfd)


def shift(file, column):
    rows = file[f"PartType1/{column}"]
    rows[:2] = rows[:2][::-1]


HDF5_DAMAGE = {
    "position": (
        lambda f: f["PartType1/Coordinates"].write_direct(
            np.full((1, 3), np.nan), dest_sel=np.s_[5:6]
        ),
        "not in the box",
    ),
    "velocities swapped": (lambda f: shift(f, "Velocities"), "Velocities is not what was written"),
    "IDs swapped": (lambda f: shift(f, "ParticleIDs"), "IDs are not those of its sites"),
    "count": (
        lambda f: f["Header"].attrs.modify("NumPart_ThisFile", [0, 7, 0, 0, 0, 0]),
        "truncated",
    ),
    "seed missing": (lambda f: f["Header"].attrs.pop("SRSeed"), "lacks SRSeed"),
    "unfinished": (lambda f: f["Header/SRChecksums"].write_direct(np.zeros(1, "S64")), "midway"),
    "layout": (
        lambda f: f["Header"].attrs.modify("SRLayout", np.bytes_("mp-gadget")),
        "is of the columns",
    ),
}


@pytest.mark.parametrize("name", HDF5_DAMAGE)
def test_a_damaged_hdf5_catalogue(sound, tmp_path, name, capfd):
    output = copy(sound / "gadget-hdf5", tmp_path / "SR")
    change, says = HDF5_DAMAGE[name]
    with h5py.File(output / "snapshot.0.hdf5", "r+") as file:
        change(file)
    assert_found(output, says, capfd)


def test_what_is_no_catalogue(data, tmp_path, capfd):
    assert run("verify", data / "lr8_12p5_z2") == 2
    assert "no catalogue of generate" in capfd.readouterr().err
    assert run("verify", tmp_path / "SR") == 2
    assert run("verify") == 2


def test_provenance_makes_it_again(sound, data, tmp_path):
    """The command in the Header gives the same bytes."""
    for name in ("gadget-hdf5", "region"):
        attrs = open_snapshot(sound / name).attrs
        words = shlex.split(attrs["SRCommand"])
        assert words[:3] == ["python", "-m", "nbodykit_sr.generate"]
        words = [str(tmp_path / name) if word == "OUTPUT" else word for word in words[3:]]
        assert forked(partial(generate, *words)) == 0
        assert tree(tmp_path / name) == tree(sound / name)
    assert json.loads(attrs["SRVersions"])["torch"] == torch.__version__
    assert ModelCard.from_dict(json.loads(attrs["SRCard"])).name == "small"


def test_a_path_with_spaces_in_the_command(data, tmp_path):
    part, output = copy(data / "lr8_12p5_z2", tmp_path / "my snapshot's"), tmp_path / "SR"
    assert generate(part, output, *OPTIONS, "--region=0:3,0:3,-1:1e1") == 0
    words = shlex.split(open_snapshot(output).attrs["SRCommand"])
    assert str(part) in words and "--region=0.0:3.0,0.0:3.0,-1.0:10.0" in words


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_same_bytes_under_any_number_of_ranks(data, tmp_path, sound, options, ranks):
    output = tmp_path / "SR"
    status, _, err = ended(start(ranks, data / "lr8_12p5_z2", output, *options))
    assert status == 0, err
    assert tree(output) == tree(sound / "nbodykit")


@pytest.fixture
def wild(tmp_path):
    """Weights far larger than training gives."""
    network = Generator(6, 2, chan_base=2, chan_min=2)
    for parameter in network.parameters():
        parameter.data *= 300
    card = {"Omega_m": 0.28, "displacement_range": 1.5}
    return saved_model(tmp_path / "wild.safetensors", network, **card)


def test_displacements_beyond_the_card_are_warned_of(data, tmp_path, wild, caplog):
    with caplog.at_level(logging.WARNING, "nbodykit_sr"):
        assert generate(data / "lr8_12p5_z2", tmp_path / "SR", "--chunk=4", f"--model={wild}") == 0
    warnings = [r.getMessage() for r in caplog.records if r.getMessage().startswith("chunk ")]
    assert warnings and "LR cells (rms" in warnings[0]
    assert "further than the 1.5 the model was trained on" in warnings[0]
    assert "(Lagrangian region 0-6.25, 0-6.25, 0-6.25 Mpc/h)" in warnings[0]
    assert any(
        "from their lattice sites" in line for line in verify(str(tmp_path / "SR"), MPI.COMM_SELF)
    )


def test_nothing_is_warned_of_without_cause(data, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "nbodykit_sr"):
        assert generate(data / "lr8_12p5_z2", tmp_path / "SR", *OPTIONS) == 0
    assert not [r for r in caplog.records if r.getMessage().startswith("chunk ")]


@pytest.mark.parametrize("column", ["Position", "Velocity"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1e-3, 10.0])
def test_wrong_values_are_never_written(tmp_path, column, value):
    if column == "Velocity" and np.isfinite(value):
        return
    header = {"SRSeed": "1"}
    names = ("Position", "Velocity", "ID")
    made = (header, {"seed": "SRSeed"}, Universe(10.0))
    writer = SnapshotWriter(str(tmp_path / "SR"), MPI.COMM_SELF, NBODYKIT, 8, names, *made)
    writer.create()
    columns = {name: np.ones((8, 3), "f4") for name in ("Position", "Velocity")}
    columns["ID"] = np.arange(8)
    columns[column][3, 1] = value
    with pytest.raises(WrongValues, match="chunk 5 has"):
        writer.write(5, 0, columns)
    with pytest.raises(InputError, match="record 0 rows of 8"):
        writer.finish()


def test_displacements_are_measured_right(data):
    """Against the catalogue's own lattice, particle by particle."""
    sr = SRCatalog(
        open_snapshot(data / "lr16_25_z0", MPI.COMM_SELF), model="interpolate", factor=2, chunk=5
    )
    fine = sr.lattice
    expectation = Expectation(fine, 2, None)
    for chunk, columns in sr.stream(sr.chunks[::9]):
        sites = fine.site(columns["ID"])
        moved = fine.displacement(sites, columns["Position"]) / (2 * fine.cell)
        even = (sites % 2 == np.array(chunk.start) * 2 % 2).all(axis=1)
        largest, rms = expectation.displacement(chunk, columns["Position"])
        assert largest == pytest.approx(abs(moved[even]).max(), rel=1e-4)
        assert rms == pytest.approx(np.sqrt((moved[even] ** 2).sum(axis=1).mean()), rel=1e-4)


def resident():
    """Resident memory of this process [bytes]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_fifty_runs_in_a_row(data, tmp_path, sound, options):
    """In one process: no growth of memory, no open files, nothing left behind."""

    def run_all():
        wanted = tree(sound / "nbodykit")
        for turn in range(50):
            output = tmp_path / f"SR{turn}"
            assert generate(data / "lr8_12p5_z2", output, *options) == 0
            assert tree(output) == wanted
            if turn == 9:
                memory, files = resident(), len(os.listdir("/proc/self/fd"))
        assert resident() - memory < 20e6, (memory, resident())
        assert len(os.listdir("/proc/self/fd")) <= files

    assert forked(run_all) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"SR{n}" for n in range(50))


@pytest.mark.slow
def test_eight_at_once(data, tmp_path, sound, options):
    """Eight commands in one folder, some of two ranks, some for the same output."""
    outputs = [tmp_path / f"SR{n // 2 if n % 2 else n}" for n in range(8)]

    def run(ranks, output):
        return ended(start(ranks, data / "lr8_12p5_z2", output, *options), patience=500)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(run, [2, 2, 1, 1, 1, 1, 1, 1], outputs))
    for output in set(outputs):
        statuses = [r[0] for o, r in zip(outputs, results) if o == output]
        assert statuses.count(0) == 1 and set(statuses) <= {0, 2}, statuses
        assert tree(output) == tree(sound / "nbodykit")
    assert set(tmp_path.iterdir()) == set(outputs)
    assert not Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
