"""Several snapshots as a series in time: one noise, one model, and one simulation or none."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from commands import tree
from formats import Box, x_slowest

from nbodykit_sr import InputError, open_snapshot, weights
from nbodykit_sr.commands.generate import generate, main
from nbodykit_sr.commands.generate_options import GenerateOptions, parse
from nbodykit_sr.commands.series import arrange
from nbodykit_sr.io.particles import SnapshotWriter

pytestmark = pytest.mark.mpi

SNAPSHOTS = ("lr8_12p5_z4", "lr8_12p5_z2")
QUICK = ["--model=interpolate", "--factor=2", "--chunk=4"]


@pytest.fixture
def paths(data):
    return [str(data / name) for name in SNAPSHOTS]


@pytest.fixture
def other(comm, data, tmp_path):
    """Write the snapshot at z = 4 as HDF5 after a change of its `Box`; returns the path."""

    def make(change, **options):
        path = tmp_path / "other.hdf5"
        if comm.rank == 0:
            box = Box(data / SNAPSHOTS[0], **options)
            change(box)
            box.gadget_hdf5(path)
        comm.Barrier()
        return str(path)

    return make


def test_a_series_is_its_members_with_one_model_and_seed(comm, paths, tmp_path):
    given = {"seed": 7, "factor": 2, "sigma8": 0.82}
    assert generate(GenerateOptions(tuple(paths), str(tmp_path / "SERIES"), **given), comm) == 0
    ids, cards = [], set()
    for name in SNAPSHOTS:
        made = open_snapshot(tmp_path / "SERIES" / name, comm)
        ids.append(made["ID"].compute())
        cards.add((made.attrs["SRModel"], made.attrs["SRSeed"]))
    np.testing.assert_array_equal(*ids)
    assert cards == {("phases", "7")}
    alone = GenerateOptions(paths[1], str(tmp_path / "alone"), model="phases", **given)
    assert generate(alone, comm) == 0
    assert tree(tmp_path / "alone") == tree(tmp_path / "SERIES" / SNAPSHOTS[1])


def test_it_goes_on_at_the_member_that_is_unfinished(comm, paths, tmp_path, monkeypatch):
    """Stopped by a signal in the second member, it gives what an uninterrupted one gives."""
    whole, output = tmp_path / "whole", tmp_path / "SERIES"
    assert main([*paths, str(whole), *QUICK], comm) == 0
    write, second = SnapshotWriter.write, str(output / SNAPSHOTS[1])

    def written(writer, *arguments):
        write(writer, *arguments)
        if writer.path == second:
            os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(SnapshotWriter, "write", written)
        assert main([*paths, str(output), *QUICK, "--chunk=2"], comm) == 75
    assert sorted(path.name for path in output.iterdir()) == [
        f"{SNAPSHOTS[1]}.partial",
        SNAPSHOTS[0],
    ]
    first = (output / SNAPSHOTS[0]).stat().st_ino
    with pytest.raises(InputError, match="lr8_12p5_z4 exists"):
        main([*paths, str(output), *QUICK, "--chunk=2"], comm)
    with pytest.raises(InputError, match="seed 0, not 1"):
        main([*paths, str(output), *QUICK, "--chunk=2", "--seed=1", "--resume"], comm)
    for _ in range(2):  # and again, where it is complete
        assert main([*paths, str(output), *QUICK, "--chunk=2", "--resume"], comm) == 0
    assert (output / SNAPSHOTS[0]).stat().st_ino == first
    assert main([*paths, str(whole), *QUICK, "--chunk=2", "--overwrite"], comm) == 0
    assert tree(output) == tree(whole)


def of_other_phases(box):
    box.position = (box.position + box.box / 2) % box.box


def test_snapshots_that_are_no_series_are_refused(comm, data, paths, other, tmp_path):
    half = x_slowest()

    def shifted(site, Nmesh):
        return half((site + Nmesh // 2) % Nmesh, Nmesh)

    def omega(box):
        box.attrs["Omega0"] = 0.3

    for made, message in (
        (lambda: str(data / "lr16_25_z4"), "BoxSize is 25 .*but 12.5 .*one simulation"),
        (lambda: other(omega), "Omega0 is 0.3 .* but 0.2814"),
        (lambda: other(of_other_phases, numbering=shifted), "correlate by .* other phases"),
        (lambda: paths[1], "both of z = 2"),
    ):
        with pytest.raises(InputError, match=message):
            main([made(), paths[1], str(tmp_path / "SERIES"), *QUICK], comm)
        assert not list(tmp_path.glob("SERIES*"))


def test_what_is_in_the_way_stays(comm, paths, tmp_path):
    output = tmp_path / "SERIES"
    assert main([paths[0], str(output), *QUICK], comm) == 0
    before = tree(output)
    with pytest.raises(InputError, match="is a catalogue: name a folder"):
        main([*paths, str(output), *QUICK, "--overwrite"], comm)
    assert tree(output) == before
    if comm.rank == 0:
        (tmp_path / "mine" / SNAPSHOTS[1]).mkdir(parents=True)
    comm.Barrier()
    with pytest.raises(InputError, match="is no catalogue of this command"):
        main([*paths, str(tmp_path / "mine"), *QUICK, "--overwrite"], comm)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [SNAPSHOTS[1]]
    with pytest.raises(InputError, match="overlap"):
        main([*paths, os.path.dirname(paths[0]), *QUICK, "--overwrite"], comm)


def test_models_that_meet_in_a_series_are_warned_of(comm, paths, other, tmp_path, caplog):
    arrange(paths, str(tmp_path / "SERIES"), ["phases", "interpolate"], comm)
    said = comm.bcast(caplog.text)
    assert "phases at z = 4 and interpolate at z = 2 are two models" in said
    with pytest.raises(InputError, match="3 models for 2 snapshots"):
        arrange(paths, str(tmp_path / "SERIES"), list("abc"), comm)

    def early(box):
        box.a = 1 / 7

    members = arrange([other(early), paths[1]], str(tmp_path / "SERIES"), [], comm)
    assert {Path(member.model).stem for member in members} == {"phases"}


def test_members_of_one_name_are_named_by_redshift(comm, paths, tmp_path):
    for place, path in zip("ab", paths):
        if comm.rank == 0:
            (tmp_path / place).mkdir()
            (tmp_path / place / "PART").symlink_to(path)
    comm.Barrier()
    inputs = [str(tmp_path / place / "PART") for place in "ab"]
    members = arrange(inputs, "SERIES", [], comm)
    assert [member.output for member in members] == ["SERIES/z4", "SERIES/z2"]


def test_options():
    options = parse("a b c out --model x --model y --model z".split())
    assert options.input == ("a", "b", "c") and options.model == ("x", "y", "z")
    with pytest.raises(InputError, match="2 models for 1 snapshot"):
        parse("a out --model x --model y".split())
    assert weights.choose(1.5625, (4, 2), 6).stem == "phases"
