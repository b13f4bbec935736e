"""What the robustness tests share: running the command, alone or by mpirun, and making it fail.

As a script, ``python commands.py TROUBLE ARGUMENT ...`` is ``generate`` in trouble: TROUBLE is
``slow:SECONDS`` for each chunk, or ``KIND:RANK`` for a rank that fails after its first chunk, by
an exception (``raise``), for lack of memory (``memory``) or by SIGKILL (``kill``).
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def start(ranks, *arguments, trouble=None):
    """Start ``generate`` under mpirun; `trouble` as above."""
    program = ["-m", "nbodykit_sr.generate"] if trouble is None else [str(HERE), trouble]
    launcher = os.environ.get("MPIRUN", "mpirun").split()
    return subprocess.Popen(
        [
            *launcher,
            "--oversubscribe",
            "-n",
            str(ranks),
            sys.executable,
            *program,
            *map(str, arguments),
        ],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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
    """Call a function in a fork of this process; gives its wait status."""
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


def generate(*arguments):
    """The command's exit status, run in this process, alone."""
    from nbodykit_sr.command import enter
    from nbodykit_sr.generate import main

    try:
        enter(main, "generate", MPI.COMM_SELF, [str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code or 0


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


def recorded(output):
    """Chunks that the journals of an unfinished run hold."""
    lines = [f.read_text().split("\n") for f in Path(f"{output}.partial").glob("journal.*")]
    return sum(line.endswith("}") for part in lines for line in part)


def wait_until(condition, process=None, patience=PATIENCE):
    """Wait for a condition that a running command brings about."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise TimeoutError(f"never came: {process and process.communicate()}")
        time.sleep(0.02)


def promptly(begun):
    """Within 15 s from then, or as many times that as there are processes to a core."""
    return time.monotonic() - begun < 15 * max(1, os.getloadavg()[0] / os.cpu_count())


def _trouble(kind, value):
    """Make the writer of this process fail, or slow."""
    from nbodykit_sr.io.particles import SnapshotWriter

    write = SnapshotWriter.write

    def troubled(self, *arguments):
        write(self, *arguments)
        if kind == "slow":
            time.sleep(float(value))
        elif MPI.COMM_WORLD.rank == int(value):
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise MemoryError if kind == "memory" else KeyError("a defect")

    SnapshotWriter.write = troubled


if __name__ == "__main__":
    from nbodykit_sr.command import enter
    from nbodykit_sr.generate import main

    _trouble(*sys.argv[1].split(":"))
    enter(main, "generate", MPI.COMM_WORLD, sys.argv[2:])
