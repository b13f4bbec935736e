"""The job scripts on a real Slurm of one node, and on a stand-in for PBS."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ended, environment, recorded, start, tree, wait_until

from nbodykit_sr.weights import shipped

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CHUNKS = 2048
MINUTES = 60  # s
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES
"""


class Slurm:
    """A Slurm of this node alone, with its own ports, key, configuration and logs in a folder."""

    def __init__(self, folder):
        self.folder, self.daemons = folder, []
        self.env = environment() | {
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "SLURM_CONF": str(folder / "slurm.conf"),
            "NBODYKIT_SR_VENV": sys.prefix,
        }
        missing = [name for name in PROGRAMS if not shutil.which(name, path=self.env["PATH"])]
        if missing:
            pytest.skip(f"no Slurm here (Debian: slurm-wlm, munge): {missing[0]} is not installed")

    def __enter__(self):
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        with socket.socket() as one, socket.socket() as other:
            one.bind(("", 0)), other.bind(("", 0))
            ports = one.getsockname()[1], other.getsockname()[1]
        text = CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            user=pwd.getpwuid(os.getuid()).pw_name,
            folder=self.folder,
            ports=ports,
        )
        (self.folder / "slurm.conf").write_text(text)
        files = [f"--{name}={self.folder}/munge.{name}" for name in ("socket", "pid-file")]
        files += [f"--{name}={self.folder}/munged.{name}" for name in ("log-file", "seed-file")]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *files)
        wait_until((self.folder / "munge.socket").exists, self.daemons[-1])
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D")
        wait_until(lambda: "idle" in self("sinfo", "-h", "-o", "%T"), patience=MINUTES)
        return self

    def __exit__(self, *_):
        subprocess.run(["scancel", "--full", "--user", str(os.getuid())], env=self.env)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _start(self, name, *arguments):
        program = shutil.which(name, path=self.env["PATH"])
        log = open(self.folder / f"{name}.out", "w")
        with log:
            daemon = subprocess.Popen([program, *arguments], env=self.env, stdout=log, stderr=log)
        self.daemons.append(daemon)

    def __call__(self, *command):
        """What a command of Slurm's prints; "" if it fails."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def submit(self, *arguments, **options):
        """Submit slurm.sh with two tasks; gives the job's number and log."""
        log = self.folder / "job.log"
        log.unlink(missing_ok=True)
        size = {"nodes": 1, "ntasks-per-node": 2, "gpus-per-node": 0, "cpus-per-task": 1, "mem": 0}
        words = [f"--{name}={value}" for name, value in (size | options).items()]
        command = ["sbatch", "--parsable", f"--output={log}", f"--chdir={ROOT}", *words]
        done = subprocess.run(
            [*command, "mpi_scripts/slurm.sh", *map(str, arguments)],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), log

    def state(self, job):
        """What Slurm knows of a job: JobState, Restarts, ..."""
        words = self("scontrol", "-o", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def finished(self, job):
        """Wait for a job's end; gives its state."""
        going = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")
        wait_until(lambda: self.state(job)["JobState"] not in going, patience=15 * MINUTES)
        return self.state(job)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture(scope="module")
def work(examples_data):
    """A snapshot, weights, and options that make many chunks of it: over a minute on 2 cores."""
    weights = next(path for path in shipped() if path.name.startswith("z2-"))
    return examples_data / "lr16_25_z2", weights, ["--chunk=1", "--region=0:25,0:25,0:12.5"]


@pytest.fixture(scope="module")
def whole(work, tmp_path_factory):
    """The bytes of a run that was never stopped."""
    low, weights, options = work
    output = tmp_path_factory.mktemp("whole") / "SR"
    process = start(2, low, output, f"--model={weights}", *options)
    status, _, err = ended(process, patience=15 * MINUTES)
    assert status == 0, err
    return tree(output)


@pytest.fixture
def older(work, tmp_path):
    """An older catalogue in the place of the output."""
    status, _, err = ended(start(1, work[0], tmp_path / "SR", "--model=interpolate", "--factor=2"))
    assert status == 0, err
    return tmp_path / "SR"


def test_a_job_is_warned_queued_again_and_complete(slurm, work, whole, older):
    """Slurm itself warns it, when 1 minute is nearly up; --overwrite begins anew only once."""
    low, weights, options = work
    job, log = slurm.submit(
        low, f"{older}//", weights, "--overwrite", *options, time=1, signal="B:USR1@1"
    )
    wait_until(lambda: slurm.state(job)["Restarts"] == "1", patience=5 * MINUTES)
    before = recorded(older)
    assert slurm("scontrol", "update", f"JobId={job}", "TimeLimit=30") == ""
    state = slurm.finished(job)
    text = log.read_text()
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), text
    assert text.count("queued again") == 1 and "2 ranks, started by" in text
    assert 0 < before < CHUNKS
    assert tree(older) == whole


def test_a_job_that_cannot_begin_is_not_queued_again(slurm, work, tmp_path):
    job, log = slurm.submit(work[0], tmp_path / "SR", tmp_path / "none.safetensors")
    state = slurm.finished(job)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "2:0", "0")
    assert log.read_text().count("error: model") == 1
    assert list(tmp_path.iterdir()) == []


def test_ranks_that_do_not_see_each_other_are_refused(slurm, data, tmp_path):
    """Each of two tasks would else do the whole job, into the same output."""
    done = subprocess.run(
        ["srun", "--mpi=none", "-n2", sys.executable, "-m", "nbodykit_sr.generate"]
        + [str(data / "lr8_12p5_z2"), str(tmp_path / "SR"), "--model=interpolate"],
        env=slurm.env,
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("srun:")]
    assert done.returncode == 2 and list(tmp_path.iterdir()) == []
    assert len(said) == 1 and "the launcher started 2 ranks" in said[0]


def test_a_pbs_job_submits_itself_again(work, whole, older):
    """Through a qsub that runs the script at once, with the variables that it was given."""
    low, weights, options = work
    folder = older.parent / "bin"
    folder.mkdir()
    (older.parent / "nodes").write_text("node\nnode\n")
    qsub = folder / "qsub"
    qsub.write_text('#!/bin/bash\necho "qsub $*"\nunset SECONDS_ALLOWED\nexec bash "${@: -1}"\n')
    qsub.chmod(0o755)
    begun = time.monotonic()
    done = subprocess.run(
        ["bash", "mpi_scripts/pbs.sh"],
        cwd=ROOT,
        env=environment()
        | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "NBODYKIT_SR_VENV": sys.prefix,
            "OMP_NUM_THREADS": "1",
            "PBS_NODEFILE": str(older.parent / "nodes"),
            "SECONDS_ALLOWED": "40",
            "SNAPSHOT": str(low),
            "OUTPUT": f"{older}/",
            "MODEL": str(weights),
            "OPTIONS": " ".join(["--overwrite", *options]),
        },
        capture_output=True,
        text=True,
        timeout=15 * MINUTES,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count("queued again") == said.count("qsub -v") == 1, said
    assert time.monotonic() - begun > 40
    assert tree(older) == whole
