"""Attributes of BigFile: whatever bigfile writes is read, whatever is written here bigfile reads."""

import re

import bigfile
import numpy as np
import pytest
from nbodykit.lab import BigFileCatalog

from nbodykit_sr import open_snapshot
from nbodykit_sr.commands.generate import main
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.blocks import BlockFile
from nbodykit_sr.io.checks import attributes, attributes_text

# Each value that bigfile takes, and what it is when it is read
VALUES = {
    "text": ("a model card", "a model card"),
    "text of other alphabets": ("Ω_m = 0.3, größer", "Ω_m = 0.3, größer"),
    "text of lines": ("one\ntwo #HUMANE [ 3 ]", "one\ntwo #HUMANE [ 3 ]"),
    "text of many characters": (20000 * "card ", 20000 * "card "),
    "empty text": ("", ""),
    "text of numpy": (np.array("Ω, by numpy"), "Ω, by numpy"),
    "text of one letter": (np.array("7"), "7"),
    "bytes": (b"as S84" + 78 * b".", "as S84" + 78 * "."),
    "bytes of one letter": (b"7", "7"),
    "texts": (["Position", "ID"], np.array(["Position", "ID"])),
    "letters": (np.array([b"5", b".", b"0"]), np.array([b"5", b".", b"0"])),
    "yes": (True, np.array([True])),
    "booleans": (np.array([True, False]), np.array([True, False])),
    "half": (np.float16(0.5), np.array([0.5], "f2")),
    "long double": (np.longdouble("0.1"), np.array([np.longdouble("0.1")])),
    "complex": (1 + 2j, np.array([1 + 2j])),
    "long complex": (np.clongdouble(1 + 2j), np.array([1 + 2j], "c32")),
    "big-endian": (np.array([1.0, 2.0], ">f8"), np.array([1.0, 2.0])),
    "a date": (np.datetime64("2026-12-01", "s"), np.array(["2026-12-01"], "M8[s]")),
    "a duration": (np.timedelta64(5, "ms"), np.array([5], "m8[ms]")),
    **{kind: (np.array([0, 1, 100], kind), np.array([0, 1, 100], kind)) for kind in "bBhHiIlLfd"},
}
EMPTY = {"empty": np.array([]), "empty texts": np.array([], "S5")}


def same(found, wanted):
    if isinstance(wanted, str):
        assert isinstance(found, str) and found == wanted
    else:
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype.kind == wanted.dtype.kind


@pytest.fixture
def header(tmp_path):
    """Writes attributes of a block by the library; gives the block's folder."""

    def write(**attrs):
        with bigfile.File(str(tmp_path), create=True) as file, file.create("Header") as block:
            for name, value in attrs.items():
                block.attrs[name] = value
        return tmp_path / "Header"

    return write


@pytest.mark.parametrize("kind", VALUES)
def test_what_bigfile_writes_is_read(header, kind):
    value, wanted = VALUES[kind]
    same(attributes(header(before=1.0, value=value, Ωm=2.0))["value"], wanted)
    assert attributes(header(before=1.0, value=value, Ωm=2.0)).keys() == {"before", "value", "Ωm"}


@pytest.mark.parametrize("kind", EMPTY)
def test_empty_ones_are_read_though_bigfile_can_not(header, kind):
    found = attributes(header(value=EMPTY[kind], other=1.0))
    assert found["value"].size == 0 and found["other"] == 1.0


def test_what_is_written_bigfile_reads(tmp_path):
    store = BlockFile(str(tmp_path / "made"), {}, 0)
    store.create()
    store.describe("Header", {kind.replace(" ", "_"): v for kind, (v, _) in VALUES.items()} | EMPTY)
    found = attributes(tmp_path / "made" / "Header")
    with bigfile.File(str(tmp_path / "made")) as file, file["Header"] as block:
        assert block.attrs.keys() == sorted(kind.replace(" ", "_") for kind in VALUES)
        for kind, (_, wanted) in VALUES.items():
            name = kind.replace(" ", "_")
            same(found[name], wanted)
            theirs = block.attrs[name]
            if isinstance(wanted, str):
                theirs = theirs[0] if isinstance(theirs, list) else theirs
                assert theirs.rstrip("\0") == wanted
            elif wanted.dtype.kind not in "SU":
                np.testing.assert_array_equal(theirs, wanted)


def test_the_bytes_are_those_of_bigfile(header):
    """But for the repetition for people."""
    attrs = {name: VALUES[name][0] for name in ("text", "bytes", "texts", "yes", "i", "d")}
    theirs = (header(**attrs) / "attr-v2").read_text()
    ours = re.sub("#HUMANE.*", "", attributes_text(attrs))
    assert re.sub("#HUMANE.*", "", theirs) == ours and "#HUMANE [ 0.0 1.0" in attributes_text(attrs)
    assert (header() / "header").read_text() == "DTYPE: <i8\nNMEMB: 0\nNFILE: 0\n"


@pytest.mark.parametrize(
    "line",
    ["x <f3 1 000000", "x <O8 1 0000000000000000", "x <S0 1 ", "x <f8 1 00", "x <i8", "x <U1 1 00"],
)
def test_damaged_ones_are_refused(header, line):
    folder = header(other=1.0)
    (folder / "attr-v2").write_text(line + "\n")
    with pytest.raises(InputError, match="damaged"):
        attributes(folder)


@pytest.mark.mpi
@pytest.mark.parametrize("layout", ["nbodykit", "gadget-hdf5"])
def test_a_catalogue_saved_by_nbodykit_is_read(comm, data, tmp_path, layout):
    """Which gives back texts as numpy's, and saves them as bytes: once, and once more."""
    path = str(tmp_path / "SR")
    words = ["--model=interpolate", "--factor=2", f"--layout={layout}"]
    assert main([str(data / "lr8_12p5_z2"), path, *words], comm) == 0
    first = open_snapshot(path, comm)
    for name in ("once", "twice"):
        source = first if layout == "gadget-hdf5" and name == "once" else None
        source = BigFileCatalog(path, comm=comm) if source is None else source
        source.attrs.update(flag=True, nothing=None, table={"a": [1]})
        path = str(tmp_path / name)
        source.save(path)
        if layout == "nbodykit":
            found = open_snapshot(path, comm)
            for column in ("Position", "Velocity", "ID"):
                np.testing.assert_array_equal(found[column].compute(), first[column].compute())
            for attr in first.attrs.keys() - {"source", "SRSource"}:
                np.testing.assert_array_equal(found.attrs[attr], first.attrs[attr], attr)
        else:
            assert attributes(f"{path}/Header")["SRCard"] == first.attrs["SRCard"]
