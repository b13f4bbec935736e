import logging

import pytest
import torch

from nbodykit_sr.errors import InputError, RankError
from nbodykit_sr.training.checkpoint import CheckpointFolder
from nbodykit_sr.training.run_log import RunLog


@pytest.fixture
def folder(tmp_path):
    checkpoints = CheckpointFolder(tmp_path, keep=3)
    for step in (1, 2, 3, 10, 20):
        checkpoints.save(step, {"x": torch.full((1000,), float(step)), "nested": [{"y": None}]})
    return checkpoints


def test_the_newest_are_kept(folder):
    assert folder.steps() == [3, 10, 20]
    step, state = folder.latest()
    assert step == 20 and (state["x"] == 20).all() and state["nested"] == [{"y": None}]
    assert len(list(folder.folder.iterdir())) == 6


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty_digest(path):
    path.with_suffix(".sha256").write_text("")


@pytest.mark.parametrize("harm", [truncate, flip, empty_digest, lambda path: path.unlink()])
def test_broken_ones_are_passed_over(folder, harm, caplog):
    harm(folder.folder / "step-00000020.pt")
    with caplog.at_level(logging.WARNING):
        assert folder.latest()[0] == 10
    assert "step-00000020.pt is passed over" in caplog.text


def test_unfinished_ones_do_not_count(folder):
    (folder.folder / "step-00000020.sha256").unlink()
    (folder.folder / "step-00000030.pt.partial").write_bytes(b"half")
    assert folder.latest()[0] == 10


def test_none_left(tmp_path):
    folder = CheckpointFolder(tmp_path / "run")
    assert folder.latest() is None
    with pytest.raises(InputError, match="no sound checkpoint"):
        folder.require()


def test_a_full_disk_under_the_log_is_one_line(tmp_path):
    log = RunLog(tmp_path / "run")
    log.file.close()
    log.file = open("/dev/full", "a")
    with pytest.raises(RankError, match="No space left.*resume"):
        log.write("train", 1, loss=0.5)
    log.close()
