"""What a newcomer and a batch queue run: the README, the quickstart's analysis, the job scripts."""

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from mpi4py import MPI

from nbodykit_sr.commands.command import check_launcher, enter

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "mpi_scripts"


def alone(**variables):
    """The environment of a process that is no rank or job of ours."""
    mpi = re.compile("(OMPI|PMIX|PRTE|PMI|MPI|SLURM|PBS)_")
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


# a launcher whose ranks see each other, and that does as it is told when it runs the command
LAUNCHER = """
case "$*" in *COMM_WORLD*) echo "size {ranks}"; exit;; esac
trap 'exit 75' USR1
{begin}
sleep 30 >/dev/null 2>&1 & wait
"""
WARNED = """mkdir -p {tmp}/SR.partial; echo '{{}}' >>{tmp}/SR.partial/journal.0
kill -USR1 $PPID"""


@pytest.fixture
def job(commands, tmp_path):
    """A way to run either script where launchers and queue are such; gives what it said."""
    (tmp_path / "nodes").write_text("node1\nnode1\nnode2\nnode2\n")
    commands("scontrol", "exit 0")
    commands("qsub", 'echo "$OPTIONS, restart $RESTARTS"')

    def run_job(script, begin, *options, status=0, restarts=0, srun=4, mpirun=4, low=("LR",)):
        begin = begin.format(tmp=tmp_path)
        commands("srun", LAUNCHER.format(ranks=srun, begin=begin))
        for name in ("mpirun", "mpiexec"):
            commands(name, LAUNCHER.format(ranks=mpirun, begin=begin))
        words = {"SNAPSHOT": ":".join(low), "OUTPUT": f"{tmp_path}/SR/", "MODEL": "MODEL"}
        slurm = [*low, words["OUTPUT"], "MODEL", *options] if script == "slurm.sh" else []
        return run(
            "bash",
            f"mpi_scripts/{script}",
            *slurm,
            status=status,
            NBODYKIT_SR_VENV=str(tmp_path),
            PBS_NODEFILE=str(tmp_path / "nodes"),
            SLURM_JOB_ID="11",
            SLURM_NTASKS="4",
            SLURM_RESTART_COUNT=str(restarts),
            RESTARTS=str(restarts),
            OPTIONS=" ".join(options),
            **words,
        )

    return run_job


def again(said):
    return "scontrol: requeue 11" in said or "qsub: -v" in said


scripts = pytest.mark.parametrize("script", ["slurm.sh", "pbs.sh"])


@scripts
def test_a_warned_job_goes_on(job, script):
    said = job(script, WARNED, "--seed", "7")
    assert again(said) and "LR" in said and "--model MODEL --seed 7 --resume" in said
    assert script == "slurm.sh" or "--seed 7, restart 1" in said


@scripts
def test_a_series_goes_on_while_any_of_its_catalogues_grows(job, script, tmp_path):
    """A catalogue that became whole has its chunks in other files: they still count."""
    output = tmp_path / "SR"
    (output / "A.partial").mkdir(parents=True)
    (output / "A.partial" / "journal.0").write_text("{}\n{}\n")
    grown = """mv {tmp}/SR/A.partial {tmp}/SR/A; rm {tmp}/SR/A/journal.0
printf '#\\n1\\n2\\n' >{tmp}/SR/A/checksums; mkdir {tmp}/SR/B.partial"""
    said = job(script, f"{grown}\nkill -USR1 $PPID", low=("A", "B"))
    assert again(said) and f"A B {output}/ --model MODEL" in said


@scripts
@pytest.mark.parametrize("status", [0, 2, 75])
def test_a_job_that_was_not_warned_ends_with_its_status(job, script, status):
    """75 without a warning: somebody stopped the ranks."""
    assert not again(job(script, f"exit {status}", status=status))


@scripts
def test_a_job_is_not_queued_again_for_ever(job, script):
    said = job(script, "kill -USR1 $PPID", status=75)
    assert not again(said) and "no chunk was added" in said
    assert again(job(script, WARNED, restarts=19))
    said = job(script, WARNED, restarts=20, status=75)
    assert not again(said) and "for the 21th time" in said


def test_a_job_warned_before_its_ranks_begin_says_so():
    """Bash itself would end without a word."""
    said = run(
        "bash",
        "-euc",
        "source mpi_scripts/job.sh; kill -USR1 $$; run_job 0 SR LR SR; echo $again $status",
    )
    assert "ask for more time" in said and said.startswith("no 2\n")


@scripts
def test_overwrite_begins_anew_the_first_time_only(job, script):
    assert "--resume" not in job(script, WARNED, "--overwrite")
    assert "--resume" in job(script, WARNED, "--overwrite", restarts=1)


def test_the_launcher_that_works_is_found(job):
    assert "started by 'srun --kill-on-bad-exit=1'" in job("slurm.sh", "exit 0")
    assert "started by 'mpirun -n 4'" in job("slurm.sh", "exit 0", srun=1)
    for script in ("slurm.sh", "pbs.sh"):
        said = job(script, "echo began; exit 0", srun=1, mpirun=1, status=2)
        assert "no launcher starts 4 ranks" in said and "began" not in said


@pytest.mark.parametrize(
    "variables",
    [
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "{rank}"},
        {"PMI_SIZE": "2", "PMI_RANK": "{rank}"},
        {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "{rank}", "SLURM_NTASKS": "2"},
    ],
)
def test_ranks_alone_are_refused_by_every_command(monkeypatch, capsys, variables):
    """Before anything is looked at; the first of them says it for all."""

    def never(argv, comm):
        raise AssertionError("it ran")

    for name in [name for name in os.environ if re.match("(OMPI|PMI|SLURM)_", name)]:
        monkeypatch.delenv(name)
    for rank in (0, 1):
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(rank=rank))
        with pytest.raises(SystemExit) as stop:
            enter(never, "generate", MPI.COMM_SELF)
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 - rank and ("started 2 ranks" in said) == (rank == 0)


def test_a_batch_script_may_run_a_single_process(monkeypatch):
    """There SLURM_NTASKS is that of the job."""
    for name in [name for name in os.environ if re.match("(OMPI|PMI|PMIX|SLURM)_", name)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    check_launcher(MPI.COMM_SELF)


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


OWN_MPI = Path(sys.prefix, "lib", "libmpi.so.40")


@pytest.mark.skipif(not OWN_MPI.exists(), reason="the MPI of this environment is the site's")
def test_an_mpi_of_ones_own_lies_in_the_environment():
    """So no cache that is emptied takes it away, and it moves with what was built against it."""
    code = """
        import mpsort.binding, pfft.core
        from mpi4py import MPI
        print(*{line.split()[-1] for line in open("/proc/self/maps") if "libmpi.so" in line})
        print(pfft.core.__file__, mpsort.binding.__file__)
        """
    loaded, built = run(sys.executable, "-c", dedent(code)).splitlines()
    assert loaded == str(OWN_MPI.resolve())
    for path in built.split():
        assert b"$ORIGIN/../../.." in Path(path).read_bytes()


@pytest.mark.skipif(not OWN_MPI.exists(), reason="the MPI of this environment is the site's")
def test_an_mpi_of_ones_own_finds_its_help_texts(monkeypatch):
    monkeypatch.delenv("OPAL_PREFIX", raising=False)
    code = "from mpi4py import MPI; MPI.COMM_WORLD.Abort(3)"
    said = run(sys.executable, "-c", code, status=3)
    assert "MPI_ABORT was invoked" in said and "Sorry" not in said


def test_first_python_of_the_readme_runs():
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    assert int(re.search(r"(\d+) halos", run(sys.executable, "-c", code)).group(1)) > 0


@pytest.fixture(scope="module")
def interpolated(data, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("interpolated") / "SR")
    low, options = str(data / "lr8_12p5_z2"), ("--model", "interpolate")
    run(sys.executable, "-m", "nbodykit_sr.generate", low, path, *options)
    return path


def test_quickstart_analysis(data, interpolated, tmp_path):
    low, figure = str(data / "lr8_12p5_z2"), tmp_path / "density.png"
    output = run(sys.executable, "examples/quickstart.py", low, interpolated, str(figure))
    rows = [
        line.split() for line in output.split("P(k)")[1].split("FOF")[0].splitlines()[2:] if line
    ]
    assert len(rows) == 5 and all(float(row[-1]) > 0 for row in rows)
    # trilinear interpolation keeps the largest scales
    assert float(rows[0][-1]) == pytest.approx(float(rows[0][-2]), rel=0.2)
    assert figure.stat().st_size > 10_000


def test_comparison_with_hr(data, interpolated):
    """A snapshot agrees with itself; interpolation lacks small scales and halos."""
    high = str(data / "hr64_12p5_z2")
    output = run(sys.executable, "examples/compare.py", high, high, interpolated)
    rows = [line.split(" | ") for line in output.splitlines() if line.startswith("|")]
    hr, same, poor = rows[2:]
    assert same[1] == same[2] == "1.00 1.00 1.00 1.00 1.00" and same[5] == hr[5]
    assert float(same[3]) == 0 and 0.5 < float(poor[3])
    assert float(poor[1].split()[-1]) < 0.1
    assert int(poor[5].split()[0]) < int(hr[5].split()[0]) / 10
