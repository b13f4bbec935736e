"""bfloat16 is taken unasked where the machine has it and the model's card says that P(k) stays."""

import os

import numpy as np
import pytest
import torch
from helpers import saved_model
from mpi4py import MPI

from nbodykit_sr import SRCatalog, open_snapshot, preparation, weights
from nbodykit_sr.commands import evaluate, flow
from nbodykit_sr.commands.generate import main
from nbodykit_sr.models.card import load_model, read_card
from nbodykit_sr.models.card_summary import BFLOAT16, bfloat16_change
from nbodykit_sr.models.generator import Generator

HARDWARE = "computes_bfloat16"


def saved(path, comm=MPI.COMM_SELF, changes=None):
    """A small model there, whose card has what bfloat16 changes; its path."""
    torch.manual_seed(1)
    network = Generator(6, 2, 4, 4)
    found = {BFLOAT16: changes} if changes else {}
    return str(saved_model(path, network, comm, evaluation=found))


def told(path):
    """In what a catalogue on the disk was computed, and the command in its header."""
    attrs = open_snapshot(path, MPI.COMM_SELF).attrs
    return attrs["SRDtype"], attrs["SRCommand"]


@pytest.mark.mpi
@pytest.mark.parametrize(
    "changes, lacking, dtype",
    [
        ({"z = 2": 5e-4, "z = 0": 9e-4}, None, "bfloat16"),
        ({"z = 2": 5e-4, "z = 0": 2e-3}, None, "float32"),
        (None, None, "float32"),
        ({"z = 2": 5e-4}, -1, "float32"),
    ],
)
def test_who_gets_bfloat16(comm, data, tmp_path, monkeypatch, changes, lacking, dtype):
    """Cards that say so, on machines all of whose ranks have it: the last may be on one without."""
    there = lacking is None or comm.rank != comm.size + lacking
    monkeypatch.setattr(preparation, HARDWARE, lambda device: there)
    model = saved(tmp_path / "m.safetensors", comm, changes)
    low = open_snapshot(data / "lr8_12p5_z2", comm)
    assert SRCatalog(low, model).attrs["SRDtype"] == dtype
    assert SRCatalog(low, model, dtype="float32").attrs["SRDtype"] == "float32"


@pytest.mark.parametrize("begun", ["float32", "bfloat16"])
def test_a_run_resumes_in_its_own(data, tmp_path, monkeypatch, begun):
    """On a machine on which it would begin in the other; what it makes names the dtype."""
    monkeypatch.setattr(preparation, HARDWARE, lambda device: begun == "float32")
    model = saved(tmp_path / "m.safetensors", changes={"z = 2": 5e-4})
    words = [data / "lr8_12p5_z2", tmp_path / "SR", "--model", model, "--chunk=4"]
    words = list(map(str, words))
    assert main([*words, f"--dtype={begun}"], MPI.COMM_SELF) == 0
    assert told(tmp_path / "SR")[0] == begun and f"--dtype={begun}" in told(tmp_path / "SR")[1]
    position = (tmp_path / "SR" / "Position" / "000000").read_bytes()
    assert main([*words, "--resume"], MPI.COMM_SELF) == 0  # it is complete
    partial = tmp_path / "SR.partial"
    monkeypatch.setattr(flow, "takewhile", lambda _, chunks: iter(chunks[:3]))
    assert main([*words, f"--dtype={begun}", "--overwrite"], MPI.COMM_SELF) != 0
    monkeypatch.undo()
    monkeypatch.setattr(preparation, HARDWARE, lambda device: begun == "float32")
    assert os.path.isdir(partial)
    assert main([*words, "--resume", "--overwrite"], MPI.COMM_SELF) == 0
    assert told(tmp_path / "SR")[0] == begun
    assert (tmp_path / "SR" / "Position" / "000000").read_bytes() == position
    assert main([*words, "--overwrite"], MPI.COMM_SELF) == 0
    assert told(tmp_path / "SR")[0] != begun


def test_a_plan_shows_both(data, tmp_path, monkeypatch, capsys):
    model = saved(tmp_path / "m.safetensors", changes={"z = 2": 5e-4})
    words = [str(data / "lr8_12p5_z2"), "none", "--plan", "--model", model]
    for there, line in (True, "bfloat16; float32: 0:00:"), (False, "float32\n"):
        monkeypatch.setattr(preparation, HARDWARE, lambda device, there=there: there)
        assert main(words, MPI.COMM_SELF) == 0
        assert f"dtype            {line}" in capsys.readouterr().out


def test_the_change_comes_into_the_card(data, tmp_path):
    """As two catalogues have it; weights and the rest of the card stay."""
    path = saved(tmp_path / "m.safetensors")
    before, _ = load_model(path)
    low = data / "lr8_12p5_z2"
    evaluate.main([path, "--bfloat16", str(low)], MPI.COMM_SELF)
    network, card = load_model(path)
    change = evaluate.power_change(path, open_snapshot(low, MPI.COMM_SELF))
    assert card.evaluation == {BFLOAT16: {"z = 2": pytest.approx(change, rel=1e-3)}} and change > 0
    for one, other in zip(before.parameters(), network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("path", weights.shipped(), ids=lambda path: path.stem)
def test_shipped_cards_say_what_bfloat16_changes(path):
    """A new one does by ``nbodykit-sr evaluate MODEL --bfloat16 LR ...``."""
    card = read_card(path)
    change = bfloat16_change(card)
    assert (
        change is None if card.network == "density" else 0 < change < 0.01 and np.isfinite(change)
    )
