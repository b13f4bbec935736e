"""Disks that are full, read-only or gone, and ranks that fail: one line, and what is done stays."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from commands import ended, fill, forked, generate, promptly, recorded, start, tree, wait_until
from mpi4py import MPI
from test_resume import written

from nbodykit_sr.commands.plan import check_disk
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.blocks import BlockFile
from nbodykit_sr.io.preflight import CATALOGUE, prepare_output

CHUNKS = 64


@pytest.fixture
def arguments(data):
    return [data / "lr8_12p5_z2", "--model=interpolate", "--seed=7", "--factor=4", "--chunk=2"]


def run(arguments, output, *more):
    return generate(arguments[0], output, *arguments[1:], *more)


def complains(arguments, output, *more, trouble=None):
    """Run in a process of its own; gives its exit status and what it complains of."""
    process = start(None, arguments[0], output, *arguments[1:], *more, trouble=trouble)
    status, _, err = ended(process)
    assert "Traceback" not in err, err
    return status, err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1.5 MB, where this may be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "none", str(folder)], capture_output=True
    )
    if not made or made.returncode:
        pytest.skip("no right to mount a small disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(arguments, small_disk, tmp_path):
    """The disk fills up during the run, by somebody else's file; then there is room again."""
    output, filler = small_disk / "SR", small_disk / "filler"
    assert run(arguments, tmp_path / "SR") == 0

    status, err = complains(arguments, output, trouble=f"full:{CHUNKS // 2}")
    assert status != 0
    assert "No space left on device" in err and "--resume" in err
    assert CHUNKS // 2 <= recorded(output) < CHUNKS
    # still full: nothing is lost by trying
    before = tree(output.with_name("SR.partial") / "catalogue")
    status, err = complains(arguments, output, "--resume")
    assert status == 2 or "No space left" in err
    assert tree(output.with_name("SR.partial") / "catalogue").keys() == before.keys()
    filler.unlink()
    assert forked(lambda: run(arguments, output, "--resume")) == 0
    assert tree(output) == tree(tmp_path / "SR")


def test_full_at_every_write(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no waiting for the disk
    assert refused_at_every_write(tmp_path, written) > 20


def refused_at_every_write(tmp_path, written):
    """Wherever the disk refuses, the run says so, and the next one completes; how many places."""
    written(tmp_path / "whole")
    moment, status = 0, 1
    while status:
        output = tmp_path / f"at{moment}"
        status = forked(lambda m=moment, o=output: refused_at(m, lambda: written(o)))
        assert os.waitstatus_to_exitcode(status) in (0, 28), moment
        assert output.exists() == (status == 0)
        assert written(output, resume=True) == 0
        assert tree(output) == tree(tmp_path / "whole"), moment
        moment += 1
    return moment


def refused_at(moment, function):
    """Call it on a disk whose nth change is refused; gives 28 if it says so in one line."""
    seen = []

    def refusing(change):
        def call(*arguments):
            seen.append(change)
            if len(seen) == moment + 1:
                raise OSError(28, "No space left on device")
            return change(*arguments)

        return call

    for name in ("pwrite", "replace", "rename", "mkdir", "truncate", "fsync"):
        setattr(os, name, refusing(getattr(os, name)))
    try:
        return function()
    except (InputError, OSError) as error:
        return 28 if "No space left" in str(error) else 1


def test_a_disk_that_takes_a_few_bytes_at_a_time(tmp_path, monkeypatch):
    written(tmp_path / "whole")
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, data[:7], offset))
    written(tmp_path / "SR")
    assert tree(tmp_path / "SR") == tree(tmp_path / "whole")


def test_what_gets_its_name_is_on_the_disk(tmp_path, monkeypatch):
    """A power failure right after leaves all of it."""
    synced, early, fsync = set(), [], os.fsync

    def noting(descriptor):
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def looking(change):
        def call(source, target):
            paths = (Path(source), *Path(source).rglob("*"))
            early.extend(path for path in paths if str(path) not in synced)
            return change(source, target)

        return call

    monkeypatch.setattr(os, "fsync", noting)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, looking(getattr(os, name)))
    written(tmp_path / "SR")
    assert synced and not early


def test_a_header_that_does_not_fit(small_disk):
    store = BlockFile(str(small_disk / "SR"), {}, 0)
    store.create()
    fill(small_disk / "filler")
    with pytest.raises(OSError, match="No space left"):
        store.describe("Header", {"BoxSize": np.full(3, 10.0)})


def test_quota_or_limit(arguments, tmp_path):
    """A limit on the size of files, as a quota would be met."""
    status, err = complains(arguments, tmp_path / "SR", trouble="limit:200000")
    assert status == 2
    assert "File too large" in err and err.count("generate: error") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_room_from_the_start(arguments, small_disk, capfd):
    arguments[3] = "--factor=8"
    assert run(arguments, small_disk / "SR") == 2
    err = capfd.readouterr().err
    assert "the output takes 0.00839 GB" in err and "free" in err
    assert list(small_disk.iterdir()) == []
    with pytest.raises(InputError, match="the output takes 1e\\+09 GB"):
        check_disk(str(small_disk / "SR"), 1e18, MPI.COMM_SELF)


def test_read_only_disk(arguments, small_disk, capfd):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert run(arguments, small_disk / "SR") == 2
    assert "can't be written to" in capfd.readouterr().err


def test_read_only_folder(tmp_path):
    """A folder of another user, or without the right to write."""
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o555)

    def refused():
        if os.geteuid() == 0:
            for path in (tmp_path, *tmp_path.parents):
                if path.stat().st_uid == 0 and path != path.parent:
                    os.chmod(path, path.stat().st_mode | 0o055)
            os.chmod(folder, 0o555)
            os.setuid(65534)
        try:
            prepare_output(str(folder / "SR"), MPI.COMM_SELF, CATALOGUE)
        except InputError as error:
            return 0 if "can't be written to" in str(error) else 3
        return 4

    assert forked(refused) == 0


def test_vanished_output(arguments, tmp_path):
    output = tmp_path / "SR"
    status, err = complains(arguments, output, trouble=f"gone:{CHUNKS // 2}")
    assert status != 0
    assert "No such file or directory" in err and "can't be written" in err
    assert not output.exists()


@pytest.mark.parametrize(
    "trouble, says",
    [
        ("raise:1", "a defect"),
        pytest.param("memory:1", "out of memory", marks=pytest.mark.slow),
        pytest.param("raise:0", "a defect", marks=pytest.mark.slow),
        pytest.param("kill:0", "", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_fails_ends_the_job(arguments, tmp_path, trouble, says):
    """The other ranks have hours of work, and wait for it in vain."""
    output = tmp_path / "SR"
    process = start(3, arguments[0], output, *arguments[1:], trouble=trouble)
    wait_until(lambda: recorded(output) or process.poll() is not None)
    begun = time.monotonic()
    status, _, err = ended(process, patience=60)
    assert promptly(begun)
    assert status != 0
    assert says in err
    assert not output.exists()
    if says:
        assert f"error on rank {trouble[-1]}" in err
