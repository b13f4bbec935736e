"""Measurements of HR, kept beside the snapshot for the next SR that is compared with it.

They are in ``HR.measured/KEY``, where KEY is a digest of the snapshot, the settings and the versions of
the programs. The folder may be removed at any time; if it cannot be written nothing is kept.
"""

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict

import bigfile
import numpy as np

from ..errors import InputError, agreement
from ..io.atomic import disk
from ..io.blocks import write_rows
from ..io.checks import check_block, check_sums
from ..io.preflight import KEPT
from ..io.staging import staged
from ..provenance import versions
from .halos import Halos, deal
from .pictures import Picture
from .results import PACKAGES
from .statistic import Statistic

logger = logging.getLogger("nbodykit_sr.diagnostics")

THEORY = ("sigma8", "n_s")  # settings that change nothing that is measured
SITES = ("Site", "Halo")


def place(subject, settings) -> str | None:
    """The folder for the measurements of a `Subject`; None if the snapshot has no checksums."""
    header = getattr(subject.catalog, "header", None)
    if header is None or not header.checksums:
        return None
    identity = {
        "snapshot": [header.identity, header.checksums],
        "settings": {key: value for key, value in asdict(settings).items() if key not in THEORY},
        "edges": subject.edges.tolist(),
        "chunks": [subject.made.chunk, subject.made.factor],
        "pictured": subject.box == 0,
        "versions": versions(PACKAGES),
    }
    key = hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()[:16]
    return f"{header.path.rstrip('/')}.measured/{key}"


def recall(folder, subject, results) -> bool:
    """Read the measurements of a catalogue from its folder; False if they are incomplete. Collective."""
    comm, found = subject.catalog.comm, None
    if comm.rank == 0:
        try:
            found = _read(folder)
        except (OSError, ValueError, KeyError, TypeError, InputError) as error:
            logger.info("nothing is taken from %s: %s", folder, error)
    found = comm.bcast(found)
    if found is None:
        return False
    state, arrays = found
    if state["sites"] is not None:
        try:
            subject.sites = _read_sites(folder, state["sites"], subject.catalog)
        except InputError:
            return False
    for name, columns in state["statistics"].items():
        results.add(subject.kind, name, Statistic(**columns), subject.box)
    for text in state["notes"]:
        results.note(text, subject)
    if state["halos"] is not None:
        number = len(arrays["length"])
        index = np.arange(comm.rank, number, comm.size)
        subject.halos = Halos(arrays["length"], particles={}, index=index, **state["halos"])
        subject.table = {"centre": arrays["centre"]}
    if state["pictures"]:
        results.pictures[subject.kind] = [
            Picture(arrays[f"count {i}"], arrays[f"halo {i}"], centre=arrays["shown"], **rest)
            for i, rest in enumerate(state["pictures"])
        ]
    subject.kept = True
    return True


def keep(folder, subject, results) -> None:
    """Write the measurements of one catalogue to its folder. Collective."""
    comm, halos, arrays = subject.catalog.comm, subject.halos, {}
    mine = {
        name: next(each for each in many if each.attrs["box"] == subject.box)
        for name, many in results.statistics.get(subject.kind, {}).items()
        if any(each.attrs["box"] == subject.box for each in many)
    }
    shown = results.pictures.get(subject.kind, []) if subject.box == 0 else []
    sites = None if subject.sites is None else comm.allreduce(len(subject.sites[0]))
    state = {
        "statistics": {name: vars(statistic) for name, statistic in mine.items()},
        "notes": subject.notes,
        "sites": sites,
        "halos": halos and {"particle_mass": halos.particle_mass, "attrs": halos.attrs},
        "pictures": [
            {name: getattr(each, name) for name in ("mean", "width", "depth", "periodic")}
            for each in shown
        ],
    }
    if halos is not None:
        arrays = {"length": halos.length, "centre": subject.table["centre"]}
    for i, each in enumerate(shown):
        arrays |= {f"count {i}": each.count, f"halo {i}": each.halo, "shown": each.centre}
    try:
        with staged(folder, KEPT, comm, overwrite=True) as inside:
            if sites:
                rows = (each.astype("i8") for each in subject.sites)
                write_rows(inside, dict(zip(SITES, rows, strict=True)), comm)
            with agreement(comm):
                if comm.rank == 0:
                    with disk(inside):
                        _write(inside, state, arrays)
    except InputError as error:
        if comm.rank == 0:
            with suppress(OSError):  # it is empty
                os.rmdir(os.path.dirname(folder))
            logger.info("%s is measured anew next time: %s", subject.kind, error)


def _write(folder, state, arrays):
    np.savez(folder / "arrays.npz", **arrays)
    digest = hashlib.sha256((folder / "arrays.npz").read_bytes()).hexdigest()
    text = json.dumps({**state, "arrays": digest}, default=lambda value: value.tolist())
    digest = hashlib.sha256(text.encode()).hexdigest()
    document = {"made by": "nbodykit_sr", "digest": digest, "state": text}
    (folder / "results.json").write_text(json.dumps(document))


def _read(folder):
    """The state and arrays in a folder; ValueError if they are not as they were written."""
    with open(f"{folder}/results.json") as file:
        document = json.load(file)
    if hashlib.sha256(document["state"].encode()).hexdigest() != document["digest"]:
        raise ValueError("results.json is damaged")
    state = json.loads(document["state"])
    with open(f"{folder}/arrays.npz", "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != state["arrays"]:
            raise ValueError("arrays.npz is damaged")
        file.seek(0)
        with np.load(file) as arrays:
            return state, dict(arrays)


def _read_sites(folder, number, catalog):
    """Sites in halos as `halo_sites` deals them. Collective; raises InputError if they are damaged."""
    comm = catalog.comm
    if not number:
        return np.zeros(0, dtype="i8"), np.zeros(0, dtype="i8")
    with agreement(comm):
        blocks = [check_block(f"{folder}/{name}") for name in SITES]
    check_sums([file for block in blocks for file in block.checksums], comm)
    first, last = (number * (comm.rank + n) // comm.size for n in (0, 1))
    with bigfile.File(folder) as file:
        site, halo = (file[name][first:last].reshape(-1) for name in SITES)
    owner = site * comm.size // catalog.csize
    return deal(site, owner, comm), deal(halo, owner, comm)
