"""Checks that an output may be written, made before anything is computed."""

import os

from ..errors import InputError, agreement
from .checks import attributes


def prepare_output(path, comm, overwrite=False, resume=False, inputs=()):
    """Check that an output can be written there. Collective; raises InputError on every rank.

    Parameters
    ----------
    path : str
    comm : mpi4py.MPI.Comm
    overwrite, resume : bool
    inputs : iterable of str
        Files and folders that must not be overwritten.
    """
    with agreement(comm):
        if comm.rank != 0:
            return
        path = path.rstrip("/") or "/"
        parent, partial = os.path.dirname(os.path.abspath(path)), path + ".partial"
        if not os.path.isdir(parent):
            raise InputError(f"the folder {parent} of output {path} does not exist: make it first")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(
                f"the folder {parent} of output {path} can't be written to: choose another"
            )
        for name in inputs:
            _check_apart(path, name)
        if os.path.lexists(path):
            if not (overwrite or resume):
                raise InputError(f"output {path} exists: choose another name or --overwrite")
            if "SRLayout" not in _header_of(path):
                raise InputError(
                    f"output {path} exists and is no catalogue of this command: it is not overwritten"
                )
            if resume and not overwrite and os.path.isdir(os.path.join(partial, "catalogue")):
                raise InputError(f"output {path} exists besides {partial}: remove one of them")
        elif os.path.lexists(partial) and not (overwrite or resume):
            raise InputError(
                f"an unfinished run is in {partial}: go on with --resume, or --overwrite it"
            )


def _header_of(path):
    try:
        return attributes(os.path.join(path, "Header"))
    except InputError:
        return {}


def _check_apart(path, name):
    """The output must not be, hold or lie in one of the inputs."""
    output, other = os.path.realpath(path), os.path.realpath(name)
    common = os.path.commonpath([output, other])
    if common in (output, other):
        raise InputError(f"output {path} and input {name} overlap: choose another output")
