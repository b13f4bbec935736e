"""Thousands of damaged files: a clear error or the right answer, in bounded memory and time.

The work is done in a process of its own, ``python test_fuzz.py KIND SEED CASES FOLDER DATA``, whose
memory is limited and which an alarm ends: what crashes, hangs or grows there is a failure here.
"""

import io
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands import environment, tree

MEMORY = 1.5e9  # bytes above what the libraries take
SECONDS = 60  # for one case; it takes hundredths of one, the first some for what it imports

NUMBERS = [b"-1", b"0", b"1", b"7", b"2147483648", b"18446744073709551616", b"9" * 18, b"9" * 40]
NUMBERS += [b"nan", b"1e400", b"FFFFFFFF", b"../..", b"\xff\xfe", b""]


CASES = {
    "header": (300, 5000),
    "snapshot": (100, 2000),
    "gadget": (100, 2000),
    "swift": (100, 2000),
    "binary": (100, 2000),
    "binary-gadget4": (100, 2000),
    "catalogue": (75, 2000),
    "catalogue-hdf5": (75, 2000),
    "safetensors": (200, 3000),
    "checkpoint": (150, 2000),
}


@pytest.mark.parametrize("kind", CASES)
def test_damaged_files(kind, tmp_path, data):
    fuzz(kind, 0, CASES[kind][0], tmp_path, data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_many_damaged_files(kind, tmp_path, data):
    """Twenty thousand."""
    fuzz(kind, 10**6, CASES[kind][1], tmp_path, data)


def fuzz(kind, seed, cases, folder, data):
    command = [sys.executable, __file__, kind, seed, cases, folder, data]
    worker = subprocess.run(
        list(map(str, command)), env=environment(), capture_output=True, text=True, timeout=1800
    )
    said = worker.stdout.split("\n")
    assert worker.returncode == 0, f"{worker.returncode} at {said[-2:]}: {worker.stderr[-2000:]}"
    assert said[-2].startswith(f"{cases} cases"), said[-2]
    refused, accepted = map(int, re.findall(r"(\d+) (?:refused|accepted)", said[-2]))
    assert refused > cases / 10 and refused + accepted == cases


def mutated(content, draw):
    """One to three changes of the kinds that disks, transfers and people make."""
    content = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        n = max(len(content), 1)
        at, width = draw.randrange(n), min(draw.choice([1, 2, 8, 64]), n)
        kind = draw.randrange(9)
        if kind == 0 and content:
            content[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and content:
            content[at] = draw.randrange(256)
        elif kind == 2:
            content[at:at] = draw.randbytes(width)
        elif kind == 3:
            del content[at : at + width]
        elif kind == 4:
            content[at:at] = content[at : at + width]
        elif kind == 5:
            del content[at:]
        elif kind == 6:
            numbers = list(re.finditer(rb"\d+", bytes(content[:65536])))
            if numbers:
                start, end = draw.choice(numbers).span()
                content[start:end] = draw.choice(NUMBERS)
        elif kind == 7:
            lines = bytes(content).split(b"\n")
            i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
            content = bytearray(b"\n".join(lines))
        else:
            content[at : at + width] = bytes(width)
    return bytes(content)


def sane(attrs):
    """Numbers that a universe can have."""
    assert np.isfinite(attrs["BoxSize"]).all() and (attrs["BoxSize"] > 0).all()
    assert (
        0 < attrs["Time"] <= 2 and 0 < attrs["Omega0"] < 2 and 0 < attrs.get("HubbleParam", 1) < 2
    )


class Headers:
    """Headers and attributes of a snapshot, read on one rank."""

    pattern = "lr8_12p5_z2"
    files = ("Header/attr-v2", "Header/attr-v2", "1/Position/header", "1/ID/header")

    def __init__(self, folder, data):
        self.path = Path(shutil.copytree(data / self.pattern, folder / "PART"))
        self.content = {name: (self.path / name).read_bytes() for name in self.files}

    def case(self, draw):
        name = draw.choice(self.files)
        content = mutated(self.content[name], draw)
        (self.path / name).write_bytes(content)
        try:
            return self.check(name, content)
        finally:
            (self.path / name).write_bytes(self.content[name])

    def check(self, name, content):
        from nbodykit_sr.io.formats import read_header

        header = read_header(self.path)
        self.check_attrs(header.attrs, content if name == "Header/attr-v2" else None)
        assert header.size == 512
        for column in header.columns:
            rows = header.rows(column, 0, 512)
            assert len(rows) == 512

    def check_attrs(self, attrs, content):
        """The attributes as another reading of the mutated text has them."""
        sane(attrs)
        text = self.content["Header/attr-v2"] if content is None else content
        found = {}
        for line in text.decode("latin-1").split("\n"):
            words = line.split(" ")
            if len(words) > 3 and words[1] != "<S1":
                found[words[0]] = np.frombuffer(bytes.fromhex(words[3]), words[1])
        for name in ("Time", "Omega0", "HubbleParam"):
            assert attrs[name] == found[name][0], name
        if found.get("UnitLength_in_cm", [0])[0] == 3.085678e21:
            assert np.allclose(attrs["BoxSize"], found["BoxSize"][0] / 1000)


class Snapshots(Headers):
    """Whole snapshots, read onto their lattice as `generate` does."""

    files = (
        *("Header/attr-v2", "1/Position/header", "1/Velocity/header", "1/ID/header"),
        *("1/Position/000000", "1/Velocity/000000", "1/ID/000000"),
    )

    def __init__(self, folder, data):
        super().__init__(folder, data)
        self.whole = self.read()[1]

    def read(self):
        from mpi4py import MPI

        from nbodykit_sr.chunks import ChunkGrid
        from nbodykit_sr.domain import LatticeDomain
        from nbodykit_sr.io.snapshot import open_snapshot
        from nbodykit_sr.particles import find_lattice

        source = open_snapshot(self.path, MPI.COMM_SELF)
        source.check_sums()
        found = find_lattice(source)
        domain = LatticeDomain(ChunkGrid(found.lattice.Nmesh, 4), MPI.COMM_SELF, 3)
        return source, found.field(domain, True).data

    def check(self, name, content):
        source, field = self.read()
        self.check_attrs(source.attrs, content if name == "Header/attr-v2" else None)
        if name == "Header/attr-v2":
            assert np.isfinite(field).all()
        elif sorted(content) == sorted(self.content[name]) and name.endswith("000000"):
            pass  # bytes changed places: their sum, BigFile's checksum, does not tell
        else:
            np.testing.assert_array_equal(field, self.whole)


class OtherCodes(Snapshots):
    """Snapshots of other codes, which keep no checksums: sane numbers, or a refusal.

    Half of the cases damage the first bytes, where what describes the data lies.
    """

    def __init__(self, folder, data, write):
        sys.path.append(str(Path(__file__).parents[1]))
        from formats import Box

        self.path = folder / "snap.hdf5"
        write(Box(data / self.pattern), str(folder / "snap"))
        if not self.path.exists():
            (folder / "snap").rename(self.path)
        self.content = {"snap.hdf5": self.path.read_bytes()}
        self.read()

    def case(self, draw):
        content = self.content["snap.hdf5"]
        head = draw.choice([8192, len(content)])
        self.path.write_bytes(mutated(content[:head], draw) + content[head:])
        source, field = self.read()
        sane(source.attrs)
        assert field.shape == (6, 14, 14, 14) and np.isfinite(field).all()


class Catalogues:
    """Outputs of `generate`, whole or half written, which nobody may take for what they are not.

    `verify` must find damage, or all sound where nothing that counts is damaged; what is opened has
    sane numbers; what is resumed becomes a sound catalogue. Half of the cases damage the first
    bytes of a file, where HDF5 describes the rest.
    """

    def __init__(self, folder, data, *options):
        from commands import generate, killed_after

        self.path, self.half = folder / "SR", folder / "HALF"
        self.options = ["--model=interpolate", "--factor=2", "--chunk=4", *options]
        self.snapshot = data / "lr8_12p5_z2"
        assert generate(self.snapshot, self.path, *self.options) == 0
        killed_after(4, lambda: generate(self.snapshot, self.half, *self.options))
        self.content = tree(self.path)
        self.begun = Path(f"{self.half}.partial").rename(folder / "begun")
        self.resume(lambda name, content: content)
        assert tree(self.half) == self.content

    def case(self, draw):
        def damaged(name, content):
            head = draw.choice([8192, len(content)])
            return mutated(content[:head], draw) + content[head:]

        kind = draw.randrange(4)
        if kind == 0:
            self.resume(damaged, draw)
        else:
            name = draw.choice([*self.content, *(n for n in self.content if "attr" in n)])
            content = damaged(name, self.content[name])
            (self.path / name).write_bytes(content)
            try:
                self.opened() if kind == 1 else self.verified(name, content)
            finally:
                (self.path / name).write_bytes(self.content[name])

    def verified(self, name, content):
        from mpi4py import MPI

        from nbodykit_sr.commands.verify import verify
        from nbodykit_sr.errors import InputError

        problems = verify(str(self.path), MPI.COMM_SELF)
        if problems:
            raise InputError(problems[0])
        if name.endswith("000000"):
            # IDs are known, and sums tell of all but bytes that changed places
            assert sorted(content) == sorted(self.content[name])
            assert content == self.content[name] or not name.startswith("ID")

    def opened(self):
        from mpi4py import MPI

        from nbodykit_sr import open_snapshot

        catalog = open_snapshot(self.path, MPI.COMM_SELF)
        catalog.check_sums()
        sane(catalog.attrs)
        assert catalog["Position"].compute().shape == (16**3, 3)

    def resume(self, change, draw=None):
        """Go on from the half, of which one file of the catalogue is changed."""
        from commands import run
        from mpi4py import MPI

        from nbodykit_sr.commands.generate import main

        partial = Path(f"{self.half}.partial")
        for folder in (partial, self.half):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.begun, partial)
        files = sorted(f for f in (partial / "catalogue").rglob("*") if f.is_file())
        file = draw.choice(files) if draw else files[0]
        file.write_bytes(change(file.name, file.read_bytes()))
        words = [*map(str, (self.snapshot, self.half)), *self.options, "--resume"]
        assert main(words, MPI.COMM_SELF) == 0
        assert run("verify", self.half) == 0


class Safetensors:
    """Models with their card."""

    def __init__(self, folder, data):
        from nbodykit_sr.models.card import ModelCard, fingerprint, save_model
        from nbodykit_sr.models.generator import Generator

        self.path = folder / "model.safetensors"
        network = Generator(6, 2, chan_base=4, chan_min=2)
        card = ModelCard("m", "displacement", network.arguments, 2, 6, redshift=(0, 4), Omega_m=0.3)
        save_model(self.path, network, card)
        self.content = self.path.read_bytes()
        self.whole = fingerprint(network, card)

    def case(self, draw):
        from nbodykit_sr.models.card import fingerprint
        from nbodykit_sr.models.loading import load_generator

        content = self.content
        if draw.random() < 0.5:  # the head is where a reader can be led astray
            head = 8 + int.from_bytes(content[:8], "little")
            content = mutated(content[:head], draw) + content[head:]
            if draw.random() < 0.7:
                length = max(len(content) - len(self.content) + head - 8, 0)
                content = length.to_bytes(8, "little") + content[8:]
        else:
            content = mutated(content, draw)
        self.path.write_bytes(content)
        network, card = load_generator(self.path)
        # an intact checksum vouches for all; without it the weights are still whole and finite
        if b'"sha256"' in content and self.whole.encode() in content:
            assert fingerprint(network, card) == self.whole
        assert all(p.isfinite().all() for p in network.parameters())


class Checkpoints:
    """map2map's pickles: damaged, or made to do harm."""

    def __init__(self, folder, data):
        import torch

        self.path, self.mark = folder / "model.pt", folder / "code-was-run"
        self.content = (data / "vectors" / "srs_6ch.pt").read_bytes()
        state = torch.load(io.BytesIO(self.content), weights_only=True)
        old = io.BytesIO()
        torch.save(state, old, _use_new_zipfile_serialization=False)
        self.old = old.getvalue()
        self.path.write_bytes(self.content)
        self.whole = self.load()

    def load(self):
        from nbodykit_sr.models.loading import load_generator

        return load_generator(self.path, "srs")[0].state_dict()

    def case(self, draw):
        import torch

        kind = draw.randrange(4)
        if kind == 0:
            content = mutated(self.content, draw)
        elif kind == 1:
            content = mutated(self.old, draw)
        elif kind == 2:
            content = self.repacked(draw)
        else:
            content = self.hostile(draw, torch)
        self.path.write_bytes(content)
        try:
            state = self.load()
        finally:
            assert not self.mark.exists(), "code was run"
        if kind == 0 and zipfile.is_zipfile(io.BytesIO(content)):
            for name, tensor in self.whole.items():
                assert torch.equal(state[name], tensor), name
        assert all(t.isfinite().all() for t in state.values())

    def repacked(self, draw):
        """A sound archive around a changed pickle."""
        packed = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(self.content)) as old, zipfile.ZipFile(packed, "w") as new:
            for entry in old.infolist():
                part = old.read(entry)
                if entry.filename.endswith("data.pkl"):
                    part = mutated(part, draw)
                name = entry.filename
                if draw.random() < 0.05:
                    name = draw.choice(["../../evil", "/etc/evil", name + "x", name])
                new.writestr(
                    name, part, draw.choice([zipfile.ZIP_STORED] * 3 + [zipfile.ZIP_DEFLATED])
                )
        return packed.getvalue()

    def hostile(self, draw, torch):
        made, kind = io.BytesIO(), draw.randrange(7)
        if kind == 0:
            torch.save({"model": Harm(self.mark)}, made)
        elif kind == 1:
            made.write(pickle.dumps({"model": Harm(self.mark)}))
        elif kind == 2:  # a view of one number that claims to be many
            torch.save({"model": {"block0.0.weight": torch.ones(1).expand(10**6, 10**6)}}, made)
        elif kind == 3:
            torch.save({"model": dict(self.whole)}, made)
        elif kind == 4:
            with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("a/data.pkl", bytes(draw.randrange(10**8)))
        elif kind == 5:
            torch.save(
                {"model": {draw.choice(["", "blocks.9999999.proj.0.weight"]): torch.ones(2)}}, made
            )
        else:
            torch.save({"model": torch.ones(3)}, made)
        return made.getvalue()


class Harm:
    """Makes a file when it is unpickled as pickle does."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


KINDS = {
    "binary": lambda *where: OtherCodes(*where, lambda box, path: box.gadget_binary(path)),
    "binary-gadget4": lambda *where: OtherCodes(
        *where, lambda box, path: box.gadget_binary(path, format2=True, order=">", gadget4=True)
    ),
    "gadget": lambda *where: OtherCodes(*where, lambda box, path: box.gadget_hdf5(path)),
    "swift": lambda *where: OtherCodes(*where, lambda box, path: box.swift(path)),
    "catalogue": Catalogues,
    "catalogue-hdf5": lambda *where: Catalogues(*where, "--layout=gadget-hdf5"),
    "header": Headers,
    "snapshot": Snapshots,
    "safetensors": Safetensors,
    "checkpoint": Checkpoints,
}


def work(kind, seed, cases, folder, data):
    from nbodykit_sr.errors import InputError

    subject = KINDS[kind](Path(folder), Path(data))
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + int(MEMORY), size + int(MEMORY)))
    warnings.simplefilter("ignore")
    refused = accepted = 0
    for case in range(seed, seed + cases):
        print(f"case {kind} {case}", flush=True)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)  # the alarm ends the process
        try:
            subject.case(random.Random(case))
            accepted += 1
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 700, error
            refused += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
    print(f"{cases} cases: {refused} refused, {accepted} accepted", flush=True)


if __name__ == "__main__":
    kind, seed, cases, folder, data = sys.argv[1:]
    work(kind, int(seed), int(cases), folder, data)
