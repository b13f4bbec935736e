"""A killed run goes on to the same bytes, whenever and however it was killed."""

import fcntl
import json
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
from commands import (
    PATIENCE,
    copy,
    ended,
    forked,
    generate,
    killed_after,
    killed_at,
    promptly,
    recorded,
    resumed_at_every_moment,
    start,
    tree,
    wait_until,
)
from mpi4py import MPI

from nbodykit_sr import open_snapshot
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.layout import GADGET_HDF5, NBODYKIT
from nbodykit_sr.io.particles import SnapshotWriter
from nbodykit_sr.io.preflight import CATALOGUE, prepare_output
from nbodykit_sr.physics.universe import Universe

CHUNKS = 8
COMM = MPI.COMM_SELF
UNIVERSE = Universe(BoxSize=10.0, a=0.5, Omega0=0.3, OmegaLambda=0.7, OmegaBaryon=0.05, h=0.7)


@pytest.fixture(scope="module")
def arguments(data):
    return [data / "lr8_12p5_z2", "--model=interpolate", "--seed=7", "--factor=2", "--chunk=4"]


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """The bytes of a run that was never killed."""
    output = tmp_path_factory.mktemp("whole") / "SR"
    assert forked(lambda: generate(arguments[0], output, *arguments[1:])) == 0
    return tree(output)


def written(output, seed=7, overwrite=False, resume=False, layout=NBODYKIT):
    """A small catalogue by the writer itself, without a snapshot or a model; some files each."""
    files = [(0, 5), (5, 4), (9, 7)]
    size = sum(n for _, n in files)
    prepare_output(str(output), COMM, CATALOGUE, overwrite, resume)
    names = ("Position", "Velocity", "ID")
    attrs = layout.attributes(UNIVERSE.attrs, size, {})
    header = {**attrs, "SRSeed": str(seed), "SRModelHash": "none"}
    writer = SnapshotWriter(
        str(output), COMM, layout, size, names, header, {"seed": "SRSeed"}, UNIVERSE
    )
    progress = (writer.resume if resume else writer.create)(overwrite)
    if progress.complete:
        return 0
    for index, (first, n) in enumerate(files):
        if index not in progress.done:
            rows = np.arange(first, first + n)[:, None] / size + [0.0, 1.0, 2.0]
            columns = {"Position": rows, "Velocity": -seed * rows, "ID": first + np.arange(n)}
            writer.write(index, first, columns)
    writer.finish(overwrite)
    return 0


@pytest.fixture
def small_files(monkeypatch):
    """Several files each, and no waiting for the disk: a kill loses nothing that was written."""
    monkeypatch.setattr("nbodykit_sr.io.rows.ROWS_PER_FILE", 6)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize(
    "layout, overwrite, files",
    [
        (NBODYKIT, False, {"Position/000002", "Header/attr-v2"}),
        (GADGET_HDF5, False, {"snapshot.2.hdf5", "checksums"}),
        pytest.param(NBODYKIT, True, {"checksums"}, marks=pytest.mark.slow),
    ],
    ids=["nbodykit", "gadget-hdf5", "overwrite"],
)
def test_killed_at_every_moment_and_resumed(tmp_path, small_files, layout, overwrite, files):
    assert resumed_at_every_moment(tmp_path, partial(written, layout=layout), overwrite) > 25
    assert files <= tree(tmp_path / "whole").keys()


def test_every_recorded_chunk_is_kept(tmp_path, small_files):
    """What a resumed run computes again is at most the chunk that was being written."""
    for moment in range(20, 50, 3):
        output = tmp_path / f"at{moment}"
        killed_at(moment, lambda o=output: written(o), output)
        before = recorded(output)

        def resumed(output=output, before=before):
            writes = []
            write = SnapshotWriter.write
            SnapshotWriter.write = lambda *a: (writes.append(a[1]), write(*a))
            written(output, resume=True)
            return len(writes) != 3 - before

        if (output.with_name(f"at{moment}.partial") / "run.json").exists():
            assert forked(resumed) == 0, moment


def test_killed_command_resumed(arguments, whole, tmp_path):
    actions, _ = killed_at(0, lambda: run(arguments, tmp_path / "count"), tmp_path / "count")
    for moment in (actions // 2, actions - 8):
        output = tmp_path / f"at{moment}"
        _, killed = killed_at(moment, lambda o=output: run(arguments, o), output)
        assert killed
        assert forked(lambda o=output: run(arguments, o, "--resume")) == 0
        assert tree(output) == whole


def run(arguments, output, *more):
    return generate(arguments[0], output, *arguments[1:], *more)


@pytest.fixture(scope="module")
def half(arguments, tmp_path_factory):
    """A run stopped when half of it was written."""
    output = tmp_path_factory.mktemp("half") / "SR"
    killed_after(CHUNKS // 2, lambda: run(arguments, output))
    assert recorded(output) == CHUNKS // 2
    return Path(f"{output}.partial")


@pytest.fixture
def begun(half, tmp_path):
    """A copy of it, for a test's own use."""
    copy(half, tmp_path / "SR.partial")
    return tmp_path / "SR"


def test_torn_journal_and_lost_data(arguments, whole, begun):
    partial = begun.with_name("SR.partial")
    journal = partial / "journal.0"
    lines = journal.read_text()
    # the last line cut short; what a chunk wrote lost; lines that are no chunk
    journal.write_text('nonsense\n[1]\n{"chunk": [0]}\n' + lines[: len(lines) - 30])
    first = json.loads(lines.split("\n")[0])
    with open(partial / "catalogue" / "Position" / "000000", "r+b") as file:
        file.seek(12 * first["start"])
        file.write(bytes(12))
    summary = begun.with_name("summary.json")
    resume = [*arguments[1:], "--resume", f"--json={summary}"]
    assert forked(lambda: generate(arguments[0], begun, *resume)) == 0
    assert tree(begun) == whole
    assert json.loads(summary.read_text())["chunks_resumed"] == lines.count("\n") - 2


def test_damaged_attributes_of_a_block(arguments, whole, begun):
    """The library could not open the block any more."""
    (begun.with_name("SR.partial") / "catalogue" / "Position" / "attr-v2").write_text(
        "NMEMB 0 2 ()\n"
    )
    assert forked(lambda: generate(arguments[0], begun, *arguments[1:], "--resume")) == 0
    assert tree(begun) == whole


@pytest.mark.parametrize(
    "option, named",
    [
        ("--seed=8", "seed 7, not 8"),
        ("--chunk=2", "chunk 4, not 2"),
        ("--factor=4", "model "),
        ("--dtype=bfloat16", "dtype float32, not bfloat16"),
        ("--layout=mp-gadget", "layout nbodykit, not mp-gadget"),
        ("--region=0:5,0:5,0:5", "region null, not "),
    ],
)
def test_another_run_is_not_resumed(arguments, begun, capfd, option, named):
    before = tree(begun.with_name("SR.partial"))
    assert generate(arguments[0], begun, *arguments[1:], option, "--resume") == 2
    assert named in capfd.readouterr().err
    after = tree(begun.with_name("SR.partial"))
    assert after == before


def test_another_input_is_not_resumed(data, arguments, begun, capfd):
    assert generate(data / "lr8_12p5_z4", begun, *arguments[1:], "--resume") == 2
    assert "was begun with input" in capfd.readouterr().err


def test_an_unfinished_run_is_no_snapshot(begun):
    partial = begun.with_name("SR.partial")
    for path in (begun, partial, partial / "catalogue"):
        with pytest.raises(InputError, match="resume"):
            open_snapshot(path)


def test_one_run_at_a_time(arguments, begun, capfd, monkeypatch):
    monkeypatch.setattr("nbodykit_sr.io.writer.LOCK_SECONDS", 0.5)
    with open(begun.with_name("SR.partial") / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for option in ("--resume", "--overwrite"):
            assert generate(arguments[0], begun, *arguments[1:], option) == 2
            assert "another run is at work" in capfd.readouterr().err


def test_a_run_that_was_killed_just_now_is_waited_for(arguments, whole, begun):
    """Its ranks may take a moment to let go of the folder."""
    lock = open(begun.with_name("SR.partial") / "lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    Timer(1, lock.close).start()
    assert run(arguments, begun, "--resume") == 0
    assert tree(begun) == whole


def test_an_output_that_came_meanwhile(tmp_path):
    """Two runs begin together for one output, and one ends before the other writes."""
    output = tmp_path / "SR"
    written(output, seed=1)
    header = {"SRSeed": "2"}
    late = SnapshotWriter(
        str(output), COMM, NBODYKIT, 4, ("Position", "ID"), header, {"seed": "SRSeed"}, UNIVERSE
    )
    before = tree(output)
    with pytest.raises(InputError, match="exists"):
        late.create()
    assert tree(output) == before and list(tmp_path.iterdir()) == [output]


def test_resume_of_a_complete_run(arguments, whole, tmp_path, capfd):
    output = tmp_path / "SR"
    for _ in range(2):  # from nothing, then from the end
        assert forked(lambda: generate(arguments[0], output, *arguments[1:], "--resume")) == 0
        assert tree(output) == whole
    assert generate(arguments[0], output, *arguments[1:], "--resume", "--seed=9") == 2
    assert "seed 7, not 9" in capfd.readouterr().err
    assert tree(output) == whole


def test_a_killed_rank_ends_the_job_and_one_rank_goes_on(arguments, whole, tmp_path):
    output = tmp_path / "SR"
    process = start(3, arguments[0], output, *arguments[1:], trouble="kill:1")
    wait_until(lambda: recorded(output), process)
    begun = time.monotonic()
    status, _, _ = ended(process, patience=60)
    assert status != 0
    assert promptly(begun)
    assert not output.exists()
    assert forked(lambda: run(arguments, output, "--resume")) == 0
    assert tree(output) == whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_under_mpirun(arguments, whole, tmp_path, seed):
    """Killed again and again, any rank, each time by another number of ranks."""
    draw, output = random.Random(seed), tmp_path / "SR"
    for _ in range(3):
        ranks = draw.choice([1, 2, 3, 4])
        process = start(ranks, arguments[0], output, *arguments[1:], "--resume", trouble="slow:0.1")
        time.sleep(draw.uniform(1, 8))
        children = subprocess_tree(process.pid)
        os.kill(draw.choice(children), signal.SIGKILL)
        ended(process, patience=60)
    assert ended(start(2, arguments[0], output, *arguments[1:], "--resume"))[0] == 0
    assert tree(output) == whole


def subprocess_tree(pid):
    """A process and all below it."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        below = [int(child) for child in file.read().split()]
    return [pid, *(p for child in below for p in subprocess_tree(child))]


@pytest.mark.parametrize(
    "number, wanted",
    [
        (signal.SIGUSR1, 75),
        pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow),
        (signal.SIGINT, 130),
    ],
)
def test_signals_stop_after_the_chunk_in_flight(arguments, whole, tmp_path, number, wanted):
    """mpirun passes SIGUSR1 on; the others come from what signals every rank."""
    output = tmp_path / "SR"
    process = start(2, arguments[0], output, *arguments[1:], trouble="slow:0.5")
    wait_until(lambda: recorded(output), process)
    pids = [process.pid] if number == signal.SIGUSR1 else ranks_of(process.pid)
    for pid in pids:
        os.kill(pid, number)
    status, _, err = ended(process, patience=60)
    assert status == wanted, err
    assert err.count("go on with --resume") == 1 and "Traceback" not in err
    before = recorded(output)
    assert 0 < before < CHUNKS
    summary = tmp_path / "summary.json"
    assert forked(lambda: run(arguments, output, "--resume", f"--json={summary}")) == 0
    assert tree(output) == whole
    assert json.loads(summary.read_text())["chunks_resumed"] == before


def test_signal_before_the_first_chunk(arguments, whole, tmp_path):
    output = tmp_path / "SR"

    def warned():
        prepare = SnapshotWriter.create

        def create(self, *details):
            os.kill(os.getpid(), signal.SIGTERM)
            return prepare(self, *details)

        SnapshotWriter.create = create
        return run(arguments, output)

    assert os.waitstatus_to_exitcode(forked(warned)) == 75
    assert recorded(output) == 0 and not output.exists()
    assert forked(lambda: run(arguments, output, "--resume")) == 0
    assert tree(output) == whole


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_without_mpirun(arguments, whole, tmp_path, times):
    """The first lets the chunk in flight be written, the second does not wait for it."""
    output, seconds = tmp_path / "SR", 1 if times == 1 else PATIENCE
    process = start(None, arguments[0], output, *arguments[1:], trouble=f"slow:{seconds}")
    wait_until(lambda: recorded(output), process)
    for _ in range(times):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.1)
    status, _, err = ended(process)
    assert status == 130 and "Traceback" not in err
    assert err.count("go on with --resume") == 1, err
    assert forked(lambda: run(arguments, output, "--resume")) == 0
    assert tree(output) == whole


def test_mpirun_terminated(arguments, whole, tmp_path):
    """mpirun itself gives its ranks a moment, whatever they say: what is recorded stays."""
    output = tmp_path / "SR"
    process = start(2, arguments[0], output, *arguments[1:], trouble="slow:0.5")
    wait_until(lambda: recorded(output), process)
    begun = time.monotonic()
    process.terminate()
    assert ended(process, patience=60)[0] != 0
    assert promptly(begun)
    assert not output.exists() and recorded(output) > 0
    assert forked(lambda: run(arguments, output, "--resume")) == 0
    assert tree(output) == whole


def ranks_of(pid):
    """The ranks that an mpirun started."""
    name = Path(sys.executable).resolve().name
    return [
        child for child in subprocess_tree(pid) if Path(f"/proc/{child}/exe").resolve().name == name
    ]
