"""What the robustness tests share: running the command, alone or by mpirun, and making it fail.

A command that may abort MPI is a process of its own: in a fork of one with MPI, MPI_Abort need not return.

As a script, ``python commands.py TROUBLE COMMAND ARGUMENT ...`` is a command in trouble: TROUBLE is
``slow:SECONDS`` for each chunk, or ``KIND:RANK`` for a rank that fails after its first chunk, by
an exception (``raise``), for lack of memory (``memory``) or by SIGKILL (``kill``), or
``RANK:MOMENT`` for a rank that is killed at its nth action on the output (see `watch_actions`), or
``RANK:all`` for one that keeps, in `kept` folders, what a kill at any of its actions would leave, or
``KIND:CHUNKS`` for a disk on which, once so many are written, somebody's file ``filler`` beside the
output leaves no room (``full``) or the unfinished output is removed (``gone``), or ``limit:BYTES``
for files that may not be larger.
"""

import importlib
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import bigfile
import h5py
from mpi4py import MPI

PATIENCE = 240  # seconds for any command: a busy machine is slow to start Python
HERE = Path(__file__)


def environment():
    """For commands: without what this process's own launcher put there."""
    launcher = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "SLURM_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(launcher)}
    env.update(
        OMP_NUM_THREADS="1",
        OMPI_MCA_rmaps_base_oversubscribe="1",
        PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe",
        OMPI_MCA_hwloc_base_binding_policy="none",
        PRTE_MCA_hwloc_default_binding_policy="none",
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        PYTHONPATH=str(HERE.parents[2]),
    )
    return env


def start(ranks, *arguments, trouble=None, command="generate", **streams):
    """Start a command under mpirun, or without it where `ranks` is None; `trouble` as above."""
    program = [str(HERE), trouble, command] if trouble else ["-m", "nbodykit_sr", command]
    launcher = []
    if ranks is not None:
        launcher = [*os.environ.get("MPIRUN", "mpirun").split(), "-n", str(ranks)]
    return subprocess.Popen(
        [*launcher, sys.executable, *program, *map(str, arguments)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams,
    )


def ended(process, patience=PATIENCE):
    """Wait for a command; gives its status, what it said and what it complained of."""
    try:
        out, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        raise
    return process.returncode, out, err


def forked(function):
    """Call a function, that does not abort MPI, in a fork of this process; gives its wait status."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            status = function() or 0
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException as error:
            os.write(2, f"in the fork: {error!r}\n".encode())
        finally:
            os._exit(status)
    deadline = time.monotonic() + PATIENCE
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError("a fork did not end")
        time.sleep(0.01)


def assert_found(output, says, capfd):
    """`verify` finds damage, and says so in these words."""
    capfd.readouterr()
    status = run("verify", output)
    said = "".join(capfd.readouterr())
    assert status in (1, 2) and "Traceback" not in said
    assert re.search(says, said), said


def run(command, *arguments, comm=MPI.COMM_SELF):
    """A command's exit status, run in this process, alone."""
    from nbodykit_sr.commands.command import enter

    main = importlib.import_module(f"nbodykit_sr.commands.{command}").main
    try:
        enter(main, command, comm, [str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code or 0


generate, emulate = partial(run, "generate"), partial(run, "emulate")


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


def killed_after(chunks, function):
    """Call a function in a fork that is killed once so many chunks are written."""

    def killing():
        from nbodykit_sr.io.writer import ChunkWriter

        write, written = ChunkWriter._write, itertools.count()

        def counted(self, *details, **noted):
            if next(written) == chunks:
                kill_myself()
            write(self, *details, **noted)

        ChunkWriter._write = counted
        return function()

    assert os.WIFSIGNALED(forked(killing))


def watch_actions(output, action, then=kill_myself):
    """Call `action` before each change of an output by this process, and if it is true, `then`.

    Actions are what Python's audit events tell of (files opened, renamed, removed, folders
    made), blocks and HDF5 datasets made by the libraries, and writes of chunks, of which half is
    written before `then`.
    """

    def watch(event, details):
        if event.startswith(("open", "os.", "shutil.")) and any(
            str(output) in str(d) for d in details if isinstance(d, (str, bytes, os.PathLike))
        ):
            if action():
                then()

    pwrite = os.pwrite

    def cut(descriptor, content, offset):
        if action():
            pwrite(descriptor, content[: len(content) // 2], offset)
            then()
        return pwrite(descriptor, content, offset)

    def watched(call):
        def made(*details, **more):
            if action():
                then()
            return call(*details, **more)

        return made

    os.pwrite = cut
    bigfile.File.create = watched(bigfile.File.create)
    h5py.Group.create_dataset = watched(h5py.Group.create_dataset)
    sys.addaudithook(watch)


def killed_at(moment, function, output):
    """Call a function in a fork that is killed at its nth action on an output.

    Gives how many actions there were, and whether it was killed.
    """
    reading, writing = os.pipe()

    def watched():
        seen = 0

        def action():
            nonlocal seen
            seen += 1
            os.write(writing, b".")
            return seen == moment

        watch_actions(output, action)
        return function()

    status = forked(watched)
    os.close(writing)
    actions = len(os.read(reading, 2**16))
    os.close(reading)
    return actions, os.WIFSIGNALED(status)


def resumed_at_every_moment(folder, written, overwrite=False):
    """Kill a small run at each of its actions, and go on with it to the same bytes.

    Parameters
    ----------
    folder : Path
    written : callable
        Of the output, its seed, overwrite and resume.
    overwrite : bool
        In the output's place are an older one and an unfinished run of another seed.

    Returns
    -------
    int
        How many actions there were.
    """
    written(folder / "whole", 7)
    whole = tree(folder / "whole")
    actions = moment = 0
    while moment <= actions:
        output = folder / f"at{moment}"
        state = Path(f"{output}.partial") / "run.json"
        if overwrite:
            written(output, 1)
            killed_at(40, partial(written, output, 2, overwrite), output)
            assert recorded(output) > 0
        count, killed = killed_at(moment, partial(written, output, 7, overwrite), output)
        assert killed == (moment > 0), moment
        actions = actions or count
        # killed before the other run was removed, it is not ours to resume
        if not state.exists() or json.loads(state.read_text())["seed"] == "7":
            assert written(output, 7, overwrite, resume=True) == 0, moment
            assert tree(output) == whole, moment
            assert not state.parent.exists(), moment
        shutil.rmtree(output)
        shutil.rmtree(state.parent, ignore_errors=True)
        moment += 1
    return actions


def kept(output):
    """Folders of what ``RANK:all`` kept, each with the output's name in it."""
    return sorted(Path(f"{output}.kept").iterdir())


def _keep_every_moment(output, others):
    """At each action on an output hold the other ranks, as a kill would, and copy what is there."""
    moments, busy = itertools.count(), False

    def keep():
        nonlocal busy
        busy = True  # copying is no action of the run
        folder = Path(f"{output}.kept") / f"{next(moments):03}"
        folder.mkdir(parents=True)
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: all(_stopped(pid) for pid in others))
        for path in map(Path, (output, f"{output}.partial")):
            if path.exists():
                shutil.copytree(path, folder / path.name)
        for pid in others:
            os.kill(pid, signal.SIGCONT)
        busy = False

    watch_actions(output, lambda: not busy, keep)


def _stopped(pid):
    """Whether a process is held by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def tree(path):
    """Every file below a folder, with its bytes."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(Path(path).rglob("*"))
        if file.is_file()
    }


def copy(source, target):
    """A copy of a snapshot that a test may break."""
    return Path(shutil.copytree(source, target))


def poke(path, offset, content):
    """Overwrite bytes of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)


def relabel(path, name, value, block="Header"):
    """Give an attribute of a BigFile another value."""
    with bigfile.File(str(path)) as file, file[block] as column:
        column.attrs[name] = value


def without(path, name, block="Header"):
    """Remove an attribute of a BigFile."""
    file = path / block / "attr-v2"
    lines = file.read_text().split("\n")
    file.write_text("\n".join(line for line in lines if not line.startswith(name + " ")))


def recorded(output):
    """Chunks that the journals of an unfinished run hold."""
    lines = [f.read_text().split("\n") for f in Path(f"{output}.partial").glob("journal.*")]
    return sum(line.endswith("}") for part in lines for line in part)


def wait_until(condition, process=None, patience=PATIENCE):
    """Wait for a condition that a running command brings about."""
    deadline = time.monotonic() + patience
    while True:
        over = process is not None and process.poll() is not None
        if condition():
            return
        if over or time.monotonic() > deadline:
            raise TimeoutError(f"never came: {process and process.communicate()}")
        time.sleep(0.02)


def promptly(begun):
    """Within 15 s from then, or as many times that as there are processes to a core."""
    return time.monotonic() - begun < 15 * max(1, os.getloadavg()[0] / os.cpu_count())


def fill(filler, spare=0):
    """Fill a disk by a file, but for some bytes."""
    free = os.statvfs(filler.parent)
    filler.write_bytes(bytes(free.f_bavail * free.f_bsize - spare))


def _spoil(kind, output, partial):
    if kind == "full":
        fill(output.with_name("filler"), 4096)
    else:
        shutil.rmtree(partial)


def _trouble(kind, value, output):
    """Make the writer of this process fail, or slow."""
    from nbodykit_sr.io.writer import ChunkWriter

    if kind.isdigit():
        moments, pids = itertools.count(1), MPI.COMM_WORLD.allgather(os.getpid())
        if MPI.COMM_WORLD.rank != int(kind):
            return
        if value == "all":
            _keep_every_moment(output, set(pids) - {os.getpid()})
        else:
            watch_actions(output, lambda: next(moments) == int(value))
        return
    if kind == "limit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), int(value)))
        return
    write, written = ChunkWriter._write, itertools.count()

    def troubled(self, *arguments, **noted):
        if kind in ("full", "gone"):
            if next(written) == int(value):
                _spoil(kind, Path(output), self.partial)
            return write(self, *arguments, **noted)
        write(self, *arguments, **noted)
        if kind == "slow":
            time.sleep(float(value))
        elif MPI.COMM_WORLD.rank == int(value):
            if kind == "kill":
                kill_myself()
            raise MemoryError if kind == "memory" else KeyError("a defect")

    ChunkWriter._write = troubled


if __name__ == "__main__":
    _, trouble, command, *arguments = sys.argv
    _trouble(*trouble.split(":"), output=arguments[{"generate": 1, "emulate": 2}[command]])
    sys.exit(run(command, *arguments, comm=MPI.COMM_WORLD))
