"""Input that cannot be used: one line on rank 0, status 2, nothing left behind, no rank hanging."""

import pickle
import re
import shutil

import bigfile
import numpy as np
import pytest
import torch
from commands import ended, start
from helpers import saved_model

from nbodykit_sr.commands.command import enter
from nbodykit_sr.commands.generate import main
from nbodykit_sr.errors import InputError
from nbodykit_sr.models.card import ModelCard
from nbodykit_sr.models.generator import Generator

OPTIONS = ["--model=interpolate", "--factor=2", "--chunk=4"]


@pytest.fixture
def refused(comm, tmp_path, capfd):
    """Runs the command on all ranks; checks how it refuses, and gives the line it says."""

    def run(*arguments):
        output = tmp_path / "SR"
        present = sorted(tmp_path.iterdir())
        capfd.readouterr()
        # not all inside `enter`, which aborts all ranks where it should not come to that
        with pytest.raises(InputError) as error:
            main([str(a) for a in arguments], comm)
        with pytest.raises(SystemExit) as stop:
            enter(lambda *_: (_ for _ in ()).throw(error.value), "generate", comm)
        said = capfd.readouterr().err
        comm.Barrier()
        assert stop.value.code == 2
        assert sorted(tmp_path.iterdir()) == present
        assert output in present or not output.exists()
        comm.Barrier()  # all have looked before a rank makes something new
        # stderr of the other ranks is theirs: nothing
        assert said.count("\n") == (1 if comm.rank == 0 else 0), said
        line = comm.bcast(said)
        assert re.match(r"nbodykit-sr generate: error: .{20,600}\n$", line), line
        return line

    return run


@pytest.fixture
def snapshot(comm, data, tmp_path):
    """A copy of a snapshot that `change` may break, on rank 0."""

    def make(change=None, source="lr8_12p5_z2"):
        path = tmp_path / "PART"
        if comm.rank == 0:
            shutil.copytree(data / source, path)
            if change is not None:
                change(path)
        comm.Barrier()
        return path

    return make


def columns(change):
    """Rewrite a snapshot's columns after `change`, with sound headers and checksums."""

    def rewrite(path):
        with bigfile.File(str(path)) as file:
            values = {name: file[f"1/{name}"][:] for name in ("Position", "Velocity", "ID")}
        values["ID"] = values["ID"].ravel()
        values = change(values) or values
        shutil.rmtree(path / "1")
        with bigfile.File(str(path), create=True) as file:
            for name, array in values.items():
                with file.create_from_array(f"1/{name}", array):
                    pass

    return rewrite


def edited(name, index, value):
    """Change one number."""

    def change(values):
        values[name][index] = value

    return columns(change)


def without(name):
    return columns(lambda values: {k: v for k, v in values.items() if k != name})


def shorter(values):
    return {name: array[:-1] for name, array in values.items()}


def glass(values):
    """Particles whose initial positions were those of a glass: IDs that number no lattice."""
    draw = np.random.default_rng(1)
    values["Position"][:] = draw.uniform(0, 12500, values["Position"].shape)


def far(values):
    """One particle that travelled nearly half a box."""
    values["Position"][0] = (values["Position"][0] + 6100) % 12500


def without_h(values):
    """Positions in kpc in a box in kpc/h."""
    values["Position"] /= 0.697


def attribute(name, value=None):
    """Change or drop a line of the Header."""

    def change(path):
        file = path / "Header" / "attr-v2"
        lines = [line for line in file.read_text().split("\n") if line.split(" ")[0] != name]
        if value is not None:
            lines.insert(0, f"{name} <f8 1 {np.float64(value).tobytes().hex().upper()} #HUMANE [ ]")
        file.write_text("\n".join(lines))

    return change


def cut(name):
    """Truncate a block's file."""

    def change(path):
        with open(path / "1" / name / "000000", "r+b") as file:
            file.truncate(1000)

    return change


def flipped(path):
    """One bit of one byte."""
    with open(path / "1" / "Velocity" / "000000", "r+b") as file:
        byte = file.read(1)[0]
        file.seek(0)
        file.write(bytes([byte ^ 1]))


SNAPSHOTS = {
    "missing block": (lambda p: shutil.rmtree(p / "1" / "Position"), "no block 1/Position"),
    "missing file": (lambda p: (p / "1" / "ID" / "000000").unlink(), "lacks its file"),
    "missing header": (lambda p: (p / "1" / "ID" / "header").unlink(), "ID/header"),
    "truncated position": (cut("Position"), "1000 bytes, its header says 12288"),
    "truncated velocity": (cut("Velocity"), "1000 bytes, its header says 6144"),
    "changed after it was written": (flipped, "checksum"),
    "no ID": (without("ID"), "no ID"),
    "repeated ID": (edited("ID", 5, 7), "missing or repeated"),
    "missing ID": (edited("ID", 5, 2000), "ID runs from 1 to 2000"),
    "no cube": (columns(shorter), "511 particles.*8\\^3 = 512"),
    "glass": (columns(glass), "lattice"),
    "half a box": (columns(far), "Mpc/h from its lattice site in a box of 12.5"),
    "NaN position": (edited("Position", 3, np.nan), "Position is not finite"),
    "NaN velocity": (edited("Velocity", 3, np.inf), "Velocity is not finite"),
    "position out of the box": (edited("Position", 3, 2e4), "box of 12.5 Mpc/h"),
    "positions without h": (columns(without_h), "Position runs from .* box of 12.5 Mpc/h"),
    "no BoxSize": (attribute("BoxSize"), "no BoxSize"),
    "negative BoxSize": (attribute("BoxSize", -1.0), "BoxSize.* is -"),
    "NaN Time": (attribute("Time", np.nan), "Time.* is .*nan"),
    "no Time": (attribute("Time"), "no Time"),
    "absurd Time": (attribute("Time", 30.0), "Time.* is 30"),
    "absurd Omega0": (attribute("Omega0", 1e30), "Omega0.* is 1e\\+30"),
    "no Header": (lambda p: shutil.rmtree(p / "Header"), "has no Header"),
    "empty Header": (lambda p: (p / "Header" / "attr-v2").write_text(""), "no BoxSize"),
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", SNAPSHOTS)
def test_snapshot(refused, snapshot, tmp_path, name):
    change, says = SNAPSHOTS[name]
    line = refused(snapshot(change), tmp_path / "SR", *OPTIONS)
    assert re.search(says, line), line


@pytest.mark.mpi
def test_no_snapshot(refused, tmp_path):
    assert "does not exist" in refused(tmp_path / "PART", tmp_path / "SR")
    assert "no Header" in refused(tmp_path, tmp_path.parent / "SR")


@pytest.fixture
def weights(comm, tmp_path):
    """A small model that fits the snapshot, but for what its card is told to say."""

    def make(**changes):
        network = Generator(6, 2, chan_base=2, chan_min=2)
        card = {"name": "small", "cell": 12.5 / 8, "redshift": (2, 2), "Omega_m": 0.2814}
        return saved_model(tmp_path / "model.safetensors", network, comm, **card | changes)

    return make


CARDS = {
    "cell": ({"cell": 0.5}, "1.5625 Mpc/h but model small was trained at 0.5 Mpc/h"),
    "redshift": ({"redshift": (3, 4)}, "redshift 2 but model small is for z = 3 to 4"),
    "Omega_m": ({"Omega_m": 3.0}, "Omega0 is 0.2814 but model small is for 3"),
    "factor": ({"factor": 4}, "factor 4"),
    "network": ({"arguments": {"channels": 6, "factor": 3}}, "arguments"),
    "nonsense": ({"arguments": {"channels": "many"}}, "arguments"),
    "huge": ({"arguments": {"channels": 6, "chan_base": 2**40}}, "model"),
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", CARDS)
def test_wrong_model(refused, snapshot, weights, tmp_path, name):
    changes, says = CARDS[name]
    line = refused(snapshot(), tmp_path / "SR", f"--model={weights(**changes)}", "--chunk=4")
    assert says in line, line


CARD_ENTRIES = {
    "name": [None, 3, "two\nlines", "x" * 1000, "\x1b[2J"],
    "network": [None, "linear", {}],
    "arguments": [None, [], "all"],
    "factor": [0, -1, 2.0, True, None, "8", 10**9],
    "channels": [0, 6.0, None],
    "cell": [0, -1.0, float("nan"), float("inf"), "1", [1]],
    "redshift": [2, (3, 2), (float("nan"),) * 2, "ab", (1, 2, 3), (-2, 0)],
    "Omega_m": [0, -0.3, float("nan"), "0.3"],
    "length": [0, -6, float("nan"), None],
    "displacement_range": [0, -1, float("nan"), "far"],
}


def test_cards_that_make_no_sense():
    sound = {"name": "m", "network": "displacement", "arguments": {}, "factor": 8, "channels": 6}
    ModelCard(**sound)
    for name, values in CARD_ENTRIES.items():
        for value in values:
            with pytest.raises(InputError, match=name) as error:
                ModelCard.from_dict({**sound, name: value})
            assert str(error.value).isprintable() and len(str(error.value)) < 300


@pytest.mark.mpi
def test_model_and_options_disagree(refused, snapshot, weights, tmp_path):
    part, model = snapshot(without("Velocity")), weights()
    output = tmp_path / "SR"
    assert "6 channels but the snapshot has no Velocity" in refused(
        part, output, f"--model={model}"
    )
    line = refused(part, output, f"--model={model}", "--factor=8")
    assert "factor" in line or "channels" in line


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("code was run",))


@pytest.mark.mpi
def test_unreadable_weights(comm, refused, snapshot, tmp_path, capfd):
    part, output = snapshot(), tmp_path / "SR"
    if comm.rank == 0:
        (tmp_path / "noise.safetensors").write_bytes(bytes(range(256)) * 8)
        (tmp_path / "noise.pt").write_bytes(bytes(range(256)) * 8)
        (tmp_path / "empty.pt").write_bytes(b"")
        torch.save({"model": Evil()}, tmp_path / "evil.pt")
        (tmp_path / "old.pt").write_bytes(pickle.dumps(Evil()))
        torch.save({"epoch": 1}, tmp_path / "other.pt")
    comm.Barrier()
    for name, says in (
        ("noise.safetensors", "unreadable"),
        ("absent.safetensors", "does not exist"),
        ("noise.pt", "model"),
        ("empty.pt", "model"),
        ("evil.pt", "could run code"),
        ("old.pt", "model"),
        ("other.pt", "no state dict"),
    ):
        flavour = ["--flavour=srs"] if name.endswith("pt") else []
        line = refused(part, output, f"--model={tmp_path / name}", *flavour)
        assert says in line and "code was run" not in line, line
        assert "code was run" not in capfd.readouterr().out
    assert "flavour" in refused(part, output, f"--model={tmp_path / 'evil.pt'}")


OPTIONS_REFUSED = [
    (["--seed=-1"], "seed"),
    (["--seed=99999999999999999999999999"], "seed"),
    (["--seed=pi"], "seed"),
    (["--chunk=0"], "chunk"),
    (["--chunk=-4"], "chunk"),
    (["--chunk=9"], "chunk is 9"),
    (["--region=0:5"], "region"),
    (["--region=5:5,0:1,0:1"], "region"),
    (["--region=0:nan,0:1,0:1"], "region"),
    (["--region=0:1e400,0:1,0:1"], "region"),
    (["--dtype=float16"], "dtype"),
    (["--device=tpu"], "device"),
    (["--layout=hdf5"], "layout"),
    (["--factor=0"], "factor"),
    (["--factor=-2"], "factor"),
    (["--factor=100000000"], "factor"),
    (["--sede=3"], "--sede"),
    (["more"], "more"),
    (["--dataset=../PART/1/"], "dataset is"),
    (["--dataset=1/../../PART/1"], "dataset is"),
    (["--dataset=0/"], "0/Position"),
    (["--model=interpolate", "--flavour=srs"], "flavour"),
    (["--json=/no/such/folder/file"], "/no/such/folder"),
]


@pytest.mark.mpi
@pytest.mark.parametrize("options, says", OPTIONS_REFUSED, ids=lambda v: "_".join(v)[:20])
def test_options(refused, snapshot, tmp_path, options, says):
    line = refused(snapshot(), tmp_path / "SR", *options)
    assert says in line, line


@pytest.mark.mpi
def test_output(comm, refused, snapshot, tmp_path):
    part = snapshot()
    assert "does not exist" in refused(part, tmp_path / "no" / "SR")
    if comm.rank == 0:
        (tmp_path / "SR").mkdir()
        (tmp_path / "SR" / "thesis.tex").write_text("ten years of work")
    comm.Barrier()
    assert "exists" in refused(part, tmp_path / "SR")
    # neither somebody's folder nor a snapshot is overwritten, the input least of all
    assert "is not overwritten" in refused(part, tmp_path / "SR", "--overwrite")
    for output in (part, part / "SR", part / ".." / "PART"):
        assert "overlap" in refused(part, output, "--overwrite")
    assert (tmp_path / "SR" / "thesis.tex").exists() and (part / "1" / "ID").exists()


def test_command(data, tmp_path):
    """The command itself, by mpirun."""
    output, part = tmp_path / "SR", tmp_path / "PART"
    shutil.copytree(data / "lr8_12p5_z2", part)
    cut("Position")(part)
    status, _, err = ended(start(2, part, output))
    assert status == 2
    assert err.count("generate: error: ") == 1 and "truncated" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == [part]
