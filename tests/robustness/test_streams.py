"""Standard streams that are closed, full or not listened to: the command does what it does."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment, tree

ROOT = Path(__file__).parents[2]

# says more than a pipe holds, and gives the status that it is told; or the number a file of its gets
SPEAKS = """
import sys
from mpi4py import MPI
from nbodykit_sr.commands.command import enter

def run(argv, comm):
    if argv[1:]:
        return open(argv[1], "w").fileno()
    print("words\\n" * 50000)
    print("complaint\\n" * 50000, file=sys.stderr)
    return int(argv[0])

enter(run, "halos", MPI.COMM_SELF)
"""


def shell(redirection, *command):
    """Status and complaints of a command, with its streams redirected by the shell."""
    line = f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", line, "bash", *map(str, command)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("status", [0, 2])
@pytest.mark.parametrize(
    "redirection",
    ["2>&-", ">&-", "<&- >&- 2>&-", "2>/dev/full", "| true", "2>&1 | head -n 1", "2> >(true)"],
)
def test_a_status_is_that_of_the_run(redirection, status):
    found, err = shell(redirection, sys.executable, "-c", SPEAKS, status)
    assert found == status
    assert "Traceback" not in err and "Exception" not in err


def test_output_that_is_lost_is_told():
    found, err = shell(">/dev/full", sys.executable, "-c", SPEAKS, 0)
    told = err.replace("complaint\n", "").strip()
    assert found == 0 and told.count("\n") == 0
    assert "standard output can't be written (No space left on device)" in told


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    """What libraries print would go into it."""
    for redirection in ("2>&-", "<&- >&- 2>&-"):
        found, _ = shell(redirection, sys.executable, "-c", SPEAKS, 0, tmp_path / "file")
        assert found > 2


@pytest.mark.parametrize("redirection", ["2>&- >/dev/full", "2>&1 | true"])
def test_a_sound_catalogue_is_status_0(data, tmp_path, redirection):
    arguments = data / "lr8_12p5_z2", tmp_path / "SR", "--model=interpolate", "--factor=2"
    found, err = shell(redirection, sys.executable, "-m", "nbodykit_sr", "generate", *arguments)
    assert found == 0 and "Traceback" not in err and "Exception" not in err
    assert "checksums" in tree(tmp_path / "SR")


@pytest.mark.parametrize("said", ["halos: interrupted", "interrupted; go on with --resume"])
def test_ctrl_c_is_one_line(said):
    code = """
import os, signal, time
from contextlib import nullcontext
from mpi4py import MPI
from nbodykit_sr.commands.command import enter, stop_requests

def run(argv, comm):
    with stop_requests() if argv else nullcontext():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

enter(run, "halos", MPI.COMM_SELF)
"""
    found, err = shell("", sys.executable, "-c", code, *["resumable"] * ("resume" in said))
    assert found == 130 and err.count("\n") == 1 and said in err


def test_threads_of_nested_loops():
    """OMP_NUM_THREADS as OpenMP takes it, in every command: libraries read it as they are imported."""
    code = "import nbodykit_sr.catalog, nbodykit_sr.density.mesh, nbodykit_sr.diagnostics.suite, numexpr"
    env = environment() | {"OMP_NUM_THREADS": "4,2"}
    env.pop("NUMEXPR_NUM_THREADS", None)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["nbodykit_sr", "generate"], ["nbodykit_sr.generate"]])
def test_ctrl_c_amid_imports_is_one_line(tmp_path, words):
    """Sent by torch, as its import begins."""
    (tmp_path / "torch.py").write_text(
        "import os; os.kill(os.getpid(), 2); import time; time.sleep(60)"
    )
    code = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = {words!r}"
    code += f"; runpy.run_module({words[0]!r}, run_name='__main__', alter_sys=True)"
    found, err = shell("", sys.executable, "-c", code)
    assert (found, err) == (130, f"python -m {words[0]}: interrupted\n")
