"""What a newcomer and a batch queue run: the README, the quickstart's analysis, the job scripts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "mpi_scripts"


def alone(**variables):
    """The environment of a process that is no rank of ours."""
    mpi = re.compile("(OMPI|PMIX|PRTE|PMI|MPI)_")
    ours = {name: value for name, value in os.environ.items() if not mpi.match(name)}
    return ours | {"OMP_NUM_THREADS": "1"} | variables


def run(*command, status=0, **variables):
    """Output of a command that must end with `status`."""
    done = subprocess.run(
        command, cwd=ROOT, env=alone(**variables), capture_output=True, text=True, timeout=300
    )
    output = done.stdout + done.stderr
    assert done.returncode == status, output
    return output


@pytest.fixture
def commands(tmp_path):
    """A folder like an environment's, and a way to put commands into it that say how they were called."""
    (tmp_path / "bin").mkdir()

    def make(name, then):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/bash\necho "{name}: $*"\n{then}\n')
        path.chmod(0o755)

    return make


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.sh")))
def test_scripts_parse(script):
    run("bash", "-n", str(SCRIPTS / script))


@pytest.mark.parametrize("status", [0, 2, 75])
@pytest.mark.parametrize("begun", [False, True])
def test_slurm_requeues_an_unfinished_run_and_resumes(commands, tmp_path, status, begun):
    commands("srun", f"exit {status}")
    commands("scontrol", "exit 0")
    if begun:
        (tmp_path / "SR.partial").mkdir()
    output = run(
        "bash",
        str(SCRIPTS / "slurm.sh"),
        "LR",
        str(tmp_path / "SR"),
        "MODEL",
        "--seed",
        "7",
        status=0 if status == 75 else status,
        NBODYKIT_SR_VENV=str(tmp_path),
        SLURM_JOB_ID="11",
    )
    assert ("scontrol: requeue 11" in output) == (status == 75)
    assert ("--resume" in output) == begun
    assert "LR" in output and "--model MODEL" in output and "--seed 7" in output


@pytest.mark.parametrize("status", [0, 2, 75])
@pytest.mark.parametrize("begun", [False, True])
def test_pbs_submits_an_unfinished_run_again_and_resumes(commands, tmp_path, status, begun):
    commands("mpirun", f"exit {status}")
    commands("qsub", 'echo "seed $OPTIONS"')
    (tmp_path / "nodes").write_text("node1\nnode1\nnode2\nnode2\n")
    if begun:
        (tmp_path / "SR.partial").mkdir()
    output = run(
        "bash",
        str(SCRIPTS / "pbs.sh"),
        status=0 if status == 75 else status,
        NBODYKIT_SR_VENV=str(tmp_path),
        PBS_NODEFILE=str(tmp_path / "nodes"),
        SNAPSHOT="LR",
        OUTPUT=str(tmp_path / "SR"),
        MODEL="MODEL",
        OPTIONS="--seed 7",
    )
    assert "mpirun: -n 4 " in output
    assert ("qsub: -v" in output and "seed --seed 7" in output) == (status == 75)
    assert ("--resume" in output) == begun


def test_mixed_launcher_and_library_are_named(tmp_path):
    launcher = tmp_path / "launcher"  # starts ranks that know nothing of each other
    launcher.write_text('#!/bin/bash\nshift 2\n"$@"\n"$@"\n')
    launcher.chmod(0o755)
    output = run(
        "bash",
        "-c",
        "source mpi_scripts/environment.sh && check_mpi",
        status=1,
        NBODYKIT_SR_VENV=sys.prefix,
        MPIRUN=str(launcher),
    )
    assert "do not see each other" in output and str(launcher) in output


def test_first_python_of_the_readme_runs():
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    assert int(re.search(r"(\d+) halos", run(sys.executable, "-c", code)).group(1)) > 0


def test_quickstart_analysis(data, tmp_path):
    low, high, figure = str(data / "lr8_12p5_z2"), str(tmp_path / "SR"), tmp_path / "density.png"
    run(sys.executable, "-m", "nbodykit_sr.generate", low, high, "--model", "interpolate")
    output = run(sys.executable, "examples/quickstart.py", low, high, str(figure))
    rows = [
        line.split() for line in output.split("P(k)")[1].split("FOF")[0].splitlines()[2:] if line
    ]
    assert len(rows) == 5 and all(float(row[-1]) > 0 for row in rows)
    # trilinear interpolation keeps the largest scales
    assert float(rows[0][-1]) == pytest.approx(float(rows[0][-2]), rel=0.2)
    assert figure.stat().st_size > 10_000


def test_comparison_with_hr(data, tmp_path):
    """A snapshot agrees with itself; interpolation lacks small scales and halos."""
    low, high, interpolated = str(data / "lr8_12p5_z2"), str(data / "hr64_12p5_z2"), tmp_path / "SR"
    options = "--model", "interpolate"
    run(sys.executable, "-m", "nbodykit_sr.generate", low, str(interpolated), *options)
    output = run(sys.executable, "examples/compare.py", high, high, str(interpolated))
    rows = [line.split(" | ") for line in output.splitlines() if line.startswith("|")]
    hr, same, poor = rows[2:]
    assert same[1] == same[2] == "1.00 1.00 1.00 1.00 1.00" and same[5] == hr[5]
    assert float(same[3]) == 0 and 0.5 < float(poor[3])
    assert float(poor[1].split()[-1]) < 0.1
    assert int(poor[5].split()[0]) < int(hr[5].split()[0]) / 10
