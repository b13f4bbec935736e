"""Names and rights of files: blanks work, other encodings and missing rights are said in one line."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import copy, emulate, forked, generate, killed_after, run, tree
from formats import Box
from helpers import saved_model
from mpi4py import MPI

from nbodykit_sr import open_halos
from nbodykit_sr.commands.verify import verify
from nbodykit_sr.io.layout import LAYOUTS
from nbodykit_sr.models.density import DensityEmulator
from nbodykit_sr.models.generator import Generator

COMM = MPI.COMM_SELF
OPTIONS = ["--model=interpolate", "--factor=2", "--chunk=4"]
NOBODY = 65534


@contextmanager
def copies(data):
    """What the commands read, in a folder that every user may look into; there they write to out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        for name in ("lr8_12p5_z2", "lr16_25_z2", "lr16_25_IC"):
            copy(data / name, path / name)
        saved_model(path / "m.safetensors", Generator(6, 2, chan_base=2), Omega_m=0.28)
        saved_model(path / "density.safetensors", DensityEmulator(filters=1), Omega_m=0.28)
        (path / "out").mkdir()
        (path / "out").chmod(0o777)
        yield path


@pytest.fixture
def inputs(data):
    with copies(data) as path:
        yield path


@pytest.mark.parametrize("name", ["my run/SR 008", "tab\tand\nline", "größer Ω"])
def test_any_utf8_path_works(inputs, name):
    """Inputs and outputs of every layout, halos and meshes; resumed, replaced and verified."""
    folder = inputs / "out" / name
    folder.mkdir(parents=True)
    snapshot = Path(shutil.move(inputs / "lr8_12p5_z2", folder / "PART 008"))
    plain = inputs / "out" / "plain"
    for layout in LAYOUTS:
        words = [*OPTIONS, f"--layout={layout}"]
        path = folder / f"SR {layout}"
        assert generate(snapshot, path, *words) == 0
        assert generate(snapshot, path, *words, "--resume") == 0
        assert generate(snapshot, path, *words, "--overwrite", "--seed=1") == 0
        assert run("verify", path) == 0 and verify(str(path), COMM) == []
        assert generate(snapshot, plain, *words, "--overwrite", "--seed=1") == 0
        same = {"checksums"} | {n for n in tree(plain) if "Header" not in n and "hdf5" not in n}
        assert {n: tree(path)[n] for n in same} == {n: tree(plain)[n] for n in same}
    assert run("halos", path, folder / "HALOS 1", "--nmin=8", "--linking-length=0.4") == 0
    assert open_halos(folder / "HALOS 1", COMM)["Position"].compute().shape[1] == 3
    model = shutil.move(inputs / "density.safetensors", folder / "density 1.safetensors")
    fields = [inputs / "lr16_25_z2", inputs / "lr16_25_IC", folder / "DENSITY 1"]
    assert emulate(*fields, "--nmesh=8", "--chunk=4", f"--model={model}", "--force") == 0
    assert run("verify", folder / "DENSITY 1") == 0


@pytest.mark.parametrize("where", ["output", "input", "model", "folder"])
@pytest.mark.parametrize("command", ["generate", "halos", "emulate", "validate"])
def test_a_path_of_another_encoding_is_refused(inputs, capfd, monkeypatch, command, where):
    """Before anything is computed, in one line."""
    strange = os.fsdecode(b"gr\xf6\xdfe")
    lr = inputs / "lr16_25_z2"
    model = inputs / ("density.safetensors" if command == "emulate" else "m.safetensors")
    output = inputs / "out" / "X"
    if where == "output":
        output = inputs / "out" / strange
    elif where == "input":
        lr = lr.rename(inputs / strange)
    elif where == "model":
        model = model.rename(inputs / f"{strange}.safetensors")
        if command in ("halos", "validate"):
            pytest.skip("takes no model")
    else:
        (inputs / "out" / strange).mkdir()
        monkeypatch.chdir(inputs / "out" / strange)
        output = "X"
    words = {
        "generate": [lr, output, f"--model={model}"],
        "halos": [lr, output],
        "emulate": [lr, inputs / "lr16_25_IC", output, f"--model={model}", "--nmesh=8", "--force"],
        "validate": ["--sr", lr, "--out", output, "--mesh=32", "--quiet"],
    }[command]
    before = tree(inputs / "out")
    capfd.readouterr()
    assert run(command, *words) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "is not UTF-8: rename it" in said, said
    assert tree(inputs / "out") == before


def test_a_name_that_no_disk_takes(inputs, capfd):
    long = inputs / (300 * "x")
    for words in ([long, inputs / "out" / "X"], [inputs / "lr8_12p5_z2", long, *OPTIONS]):
        assert generate(*words) == 2
        said = capfd.readouterr().err
        assert said.count("\n") == 1, said


@pytest.fixture(scope="module")
def others(data):
    """Inputs of other formats too, and outputs of earlier runs."""
    from nbodykit_sr.diagnostics import report, suite  # noqa: F401, while this user may read Python

    with copies(data) as path:
        box = Box(data / "lr8_12p5_z2")
        for folder in ("hdf5", "several", "binary", "weights", "out/closed"):
            (path / folder).mkdir()
        box.gadget_hdf5(path / "hdf5" / "snap")
        box.gadget_hdf5(path / "several" / "snap", 2)
        box.gadget_binary(path / "binary" / "snap")
        shutil.copy(path / "m.safetensors", path / "weights")
        (path / "out" / "closed" / "deep").mkdir()
        for layout in LAYOUTS:
            words = [*OPTIONS, f"--layout={layout}"]
            assert generate(path / "lr8_12p5_z2", path / "out" / layout, *words) == 0
        killed_after(3, lambda: generate(path / "lr8_12p5_z2", path / "out" / "begun", *OPTIONS))
        yield path


LR, FIELDS = "{0}/lr8_12p5_z2", ("{0}/lr16_25_z2", "{0}/lr16_25_IC")
GENERATE = ("generate", LR, "{0}/out/X", "--chunk=4")
BEGUN = ("out/begun.partial", "out/begun.partial/run.json", "out/begun.partial/catalogue")
EMULATE = ("emulate", *FIELDS, "{0}/out/X", "--nmesh=8", "--model={0}/density.safetensors")
DENIED = [  # a command, and each file or folder that it may not read
    (
        (*GENERATE, *OPTIONS),
        *("", "lr8_12p5_z2", "lr8_12p5_z2/Header", "lr8_12p5_z2/Header/attr-v2", "lr8_12p5_z2/1"),
        *("lr8_12p5_z2/1/Position", "lr8_12p5_z2/1/Position/header", "lr8_12p5_z2/1/ID/000000"),
    ),
    (("generate", "{0}/hdf5", "{0}/out/X", *OPTIONS), "hdf5", "hdf5/snap.hdf5"),
    (("generate", "{0}/hdf5/snap.hdf5", "{0}/out/X", *OPTIONS), "hdf5", "hdf5/snap.hdf5"),
    (("generate", "{0}/several", "{0}/out/X", *OPTIONS), "several", "several/snap.1.hdf5"),
    (("generate", "{0}/binary/snap", "{0}/out/X", *OPTIONS), "binary", "binary/snap"),
    ((*GENERATE, "--model={0}/m.safetensors"), "m.safetensors"),
    ((*GENERATE, "--model={0}/weights/m.safetensors"), "weights", "weights/m.safetensors"),
    (
        ("generate", LR, "{0}/out/nbodykit", *OPTIONS, "--overwrite"),
        "out/nbodykit",
        "out/nbodykit/Header",
    ),
    (
        ("generate", LR, "{0}/out/gadget-hdf5", *OPTIONS, "--overwrite"),
        "out/gadget-hdf5/snapshot.0.hdf5",
    ),
    (("generate", LR, "{0}/out/begun", *OPTIONS, "--resume"), *BEGUN),
    (("generate", LR, "{0}/out/closed/deep/X", *OPTIONS), "out/closed"),
    (("verify", "{0}/out/nbodykit"), "out/nbodykit/checksums", "out/nbodykit/Position"),
    (("verify", "{0}/out/mp-gadget"), "out/mp-gadget/1", "out/mp-gadget/1/Velocity/000000"),
    (("verify", "{0}/out/gadget-hdf5"), "out/gadget-hdf5", "out/gadget-hdf5/checksums"),
    (EMULATE, "lr16_25_IC", "lr16_25_IC/1", "lr16_25_z2/Header/attr-v2", "density.safetensors"),
    (("halos", LR, "{0}/out/X"), "lr8_12p5_z2", "lr8_12p5_z2/1", "lr8_12p5_z2/1/Velocity/000000"),
    (("validate", "--sr", LR, "--out", "{0}/out/X", "--quiet"), "lr8_12p5_z2/1", "lr8_12p5_z2"),
]


@pytest.mark.parametrize(
    "words, denied",
    [(words, name) for words, *names in DENIED for name in names],
    ids=lambda value: "folder" if value == "" else value if isinstance(value, str) else value[0],
)
def test_what_may_not_be_read_is_named(others, capfd, words, denied):
    """One line with status 2, whichever file or folder it is, for a user without the right."""

    def refused():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        return run(*(word.format(others) for word in words))

    place = others / denied
    mode = place.stat().st_mode
    place.chmod(0)
    try:
        capfd.readouterr()
        status = os.waitstatus_to_exitcode(forked(refused))
        said = capfd.readouterr().err
    finally:
        place.chmod(mode)
    assert status == 2 and said.count("\n") == 1, said
    assert str(place) in said and "ermission denied" in said, said
    assert not (others / "out" / "X").exists()
