"""Checks, before anything is computed, of where an output is written and what it replaces."""

import os
import re
from dataclasses import dataclass

from ..errors import InputError, agreement
from ..provenance import NAMES
from .atomic import check_name, readable

# Bytes at the beginning of a file in which a mark is looked for
_LONGEST = 2**24

_BLOCK = r"(header|attr-v2|[0-9A-F]{6})"


@dataclass(frozen=True)
class Kind:
    """A kind of output, and how one is recognised: nothing else is ever replaced or removed."""

    name: str
    # regular expression of the files in its folder; "" for a kind that is a single file
    files: str = ""
    # (file, words) pairs: an output has one of the files, with these words, which only this package
    # writes, near its beginning. An output of a kind without marks is never replaced
    marks: tuple = ()
    resumable: bool = False  # whether an unfinished output can be resumed

    @property
    def header(self) -> str:
        """The block of a BigFile whose attributes hold the first mark."""
        return os.path.dirname(self.marks[0][0])

    @property
    def staged(self) -> str:
        """Regular expression of the files in ``X.partial``, where an output X is made."""
        parts = rf"({self.name}|chunks|old)/({self.files})"
        return rf"(lock|run\.json|journal\.\d+|{parts})(\.partial)?"

    def marked(self, path) -> bool:
        """Whether the output at `path` is of this kind, by its marks."""
        for file, words in self.marks:
            file = os.path.join(path, file) if file else path
            if os.path.isfile(file):
                with open(file, encoding="latin-1") as opened:
                    return words in opened.read(_LONGEST)
        return False


CATALOGUE = Kind(
    "catalogue",
    rf"checksums|(Header|(1/)?(Position|Velocity|ID))/{_BLOCK}|snapshot\.\d+\.hdf5",
    (("Header/attr-v2", NAMES["model_hash"]), ("snapshot.0.hdf5", NAMES["model_hash"])),
    resumable=True,
)
CONE = Kind(
    "cone",
    rf"checksums|(Header|Position|Velocity|ID|Replica|Aemit|RA|DEC|Redshift|RedshiftObserved|Weight)/{_BLOCK}"
    r"|cone\.\d+\.hdf5|maps/shell\.\d+\.fits|figures/\w+\.png",
    (("Header/attr-v2", "ConeObserver"), ("cone.0.hdf5", "ConeObserver")),
    resumable=True,
)
MESH = Kind(
    "mesh", rf"checksums|Field/{_BLOCK}", (("Field/attr-v2", NAMES["model_hash"]),), resumable=True
)
SERIES = Kind("series")  # a folder of catalogues, which are guarded one by one
HALOS = Kind("halos", rf"(Header|(1|FOFGroups)/\w+)/{_BLOCK}", (("Header/attr-v2", "HaloCommand"),))
REPORT = Kind(
    "report", r"report\.(html|json)|figures/\w+\.(png|pdf)", (("report.json", '"nbodykit_sr"'),)
)
KEPT = Kind(
    "kept", rf"results\.json|arrays\.npz|(Site|Halo)/{_BLOCK}", (("results.json", '"nbodykit_sr"'),)
)
PAIR = Kind("pair", r"(lr|hr|initial|moved|ic|power)\.npy|manifest\.json")
SNAPSHOT = Kind("snapshot", rf"{CATALOGUE.files}|{MESH.files}")
SUMMARY = Kind("summary", marks=(("", '"nbodykit_sr"'),))
FIGURE = Kind("figure", marks=(("", "nbodykit_sr"),))
WEIGHTS = Kind("weights")


def prepare_output(
    path, comm, kind, overwrite=False, resume=False, inputs=(), parents=False
) -> None:
    """Check that an output can be written there. Collective; raises InputError on every rank.

    Parameters
    ----------
    path : path
    comm : mpi4py.MPI.Comm or None
    kind : Kind
    overwrite, resume : bool
        Options of the command.
    inputs : iterable of paths
        Files and folders that must stay as they are.
    parents : bool
        Missing parent folders will be made.
    """
    with agreement(comm):
        if comm is None or comm.rank == 0:
            path = os.fspath(path).rstrip("/") or "/"
            for name in (path, *inputs):
                check_name(name)
            _check_parent(path, parents)
            for name in inputs:
                _check_apart(path, name)
            _check_existing(path, kind, overwrite or resume)
            if kind.files:
                _check_partial(path, kind, overwrite, resume)


def foreign_file(folder, files) -> str | None:
    """The first file in a folder whose path does not match `files`, or None. A link never matches."""

    def refuse(error):
        raise InputError(f"{error.filename} can't be looked into: {error.strerror}")

    for root, folders, names in os.walk(folder, onerror=refuse):
        for name in (*names, *folders):
            path = os.path.join(root, name)
            inside = os.path.relpath(path, folder)
            if os.path.islink(path) or (name in names and not re.fullmatch(files, inside)):
                return inside
    return None


def check_partial(path, kind) -> None:
    """Refuse a folder ``path.partial`` with a file that no run of this kind writes."""
    partial = path + ".partial"
    found: str | None
    if os.path.islink(partial) or not os.path.isdir(partial):
        found = "no folder of an unfinished run"
    elif found := foreign_file(partial, kind.staged):
        found = f"not of this command: it holds {found}"
    if found:
        raise InputError(f"{partial} is {found}: move it away, or choose another output")


def _check_parent(path, parents):
    parent = os.path.dirname(os.path.abspath(path))
    while parents and not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    with readable(parent):
        if not os.path.isdir(parent):
            raise InputError(f"the folder {parent} of output {path} does not exist: make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(
            f"the folder {parent} of output {path} can't be written to: choose another"
        )


def _check_apart(path, name):
    """The output must not be, hold or lie in one of the inputs, nor the folder it is made in."""
    other = os.path.realpath(name)
    for output in (path, path + ".partial"):
        place = os.path.realpath(output)
        if os.path.commonpath([place, other]) in (place, other):
            raise InputError(f"output {output} and input {name} overlap: choose another output")


def _check_existing(path, kind, asked):
    if os.path.islink(path):
        raise InputError(
            f"output {path} is a symbolic link, which is not followed: name what it should point to"
        )
    if not os.path.lexists(path):
        return
    if not kind.marks:
        raise InputError(f"output {path} exists: remove it or choose another name")
    if not asked:
        raise InputError(f"output {path} exists: choose another name or --overwrite")
    with readable(path):
        if not kind.marked(path):
            raise InputError(
                f"output {path} exists and is no {kind.name} of this command: it is not overwritten"
            )
    if kind.files and (found := foreign_file(path, kind.files)):
        raise InputError(
            f"output {path} holds {found}, which is not of the {kind.name}: move that away first"
        )


def _check_partial(path, kind, overwrite, resume):
    partial = path + ".partial"
    if not os.path.lexists(partial):
        return
    check_partial(path, kind)
    if kind.resumable and not (overwrite or resume):
        raise InputError(
            f"an unfinished run is in {partial}: go on with --resume, or --overwrite it"
        )
    if resume and not overwrite and os.path.lexists(path):
        if os.path.isdir(os.path.join(partial, kind.name)):
            raise InputError(f"output {path} exists besides {partial}: remove one of them")
