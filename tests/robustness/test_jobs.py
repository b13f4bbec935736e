"""The job scripts on a real Slurm of one node, and on a stand-in for PBS."""

import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import ended, environment, recorded, start, tree, wait_until

from nbodykit_sr.weights import shipped

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CHUNKS = 16 * 16 * 32
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
    """A Slurm of this node alone, with its own ports, key, configuration and logs in a folder.

    Parameters
    ----------
    folder : Path
        In which every user may look.
    pmix : bool
        Whether its srun has what Open MPI needs to find its ranks.
    """

    def __init__(self, folder, pmix):
        self.folder, self.pmix, self.daemons = folder, pmix, []
        self.env = environment() | {
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "SLURM_CONF": str(folder / "slurm.conf"),
            "NBODYKIT_SR_VENV": sys.prefix,
        }
        del self.env["PYTHONPATH"]  # a job runs what it finds in the folder it was submitted from
        missing = [name for name in PROGRAMS if not shutil.which(name, path=self.env["PATH"])]
        if missing:
            pytest.skip(f"no Slurm here (Debian: slurm-wlm, munge): {missing[0]} is not installed")

    def __enter__(self):
        for name in ("state", "spool", "plugins"):
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
        if not self.pmix:
            self._hide_pmix()
        elif not self("srun", "--mpi=pmix", "echo", "found"):
            pytest.skip("srun finds no PMIx here (Debian: libpmix-dev)")
        return self

    def __exit__(self, *_):
        subprocess.run(["scancel", "--full", "--user", str(os.getuid())], env=self.env)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _hide_pmix(self):
        """From now on srun finds all of Slurm's plugins but those for PMIx."""
        shown = self("scontrol", "show", "config")
        plugins = self.folder / "plugins"
        for plugin in Path(re.search(r"PluginDir\s*= (\S+)", shown)[1]).glob("*.so"):
            if not plugin.name.startswith("mpi_pmix"):
                (plugins / plugin.name).symlink_to(plugin)
        with open(self.env["SLURM_CONF"], "a") as file:
            file.write(f"PluginDir={plugins}\n")

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

    def submit(self, user, clone, folder, *arguments, **options):
        """Submit a clone's slurm.sh with two tasks; gives the job's number and its log, in a folder."""
        log = folder / "job.log"
        size = {"nodes": 1, "ntasks-per-node": 2, "gpus-per-node": 0, "cpus-per-task": 1, "mem": 0}
        words = [f"--{name}={value}" for name, value in (size | options).items()]
        done = subprocess.run(
            ["sbatch", "--parsable", f"--output={log}", *words, "mpi_scripts/slurm.sh"]
            + [*map(str, arguments)],
            cwd=clone,
            env=self.env | {"HOME": user.pw_dir, "USER": user.pw_name},
            user=user.pw_uid,
            group=user.pw_gid,
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
def slurm(request):
    """Of a kind, with `pmix` or without."""
    with (
        public_folder() as folder,
        Slurm(folder, getattr(request, "param", "pmix") == "pmix") as one,
    ):
        yield one


@contextmanager
def public_folder():
    """A temporary one, in which other users may look; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def ordinary():
    """A user made for these tests, who may run this environment."""
    if os.getuid() or not shutil.which("useradd"):
        pytest.skip("only root can make a user, and Slurm run the job of another")
    with public_folder() as folder:
        name = f"sr{os.getpid()}"
        subprocess.run(["useradd", "--create-home", f"--base-dir={folder}", name], check=True)
        try:
            alone = {"user": name, "group": name, "extra_groups": []}
            command = ["env", sys.executable, "-c", "import mpi4py.MPI"]
            if subprocess.run(command, **alone).returncode:
                pytest.skip(f"an ordinary user may not run {sys.executable} or its MPI here")
            yield pwd.getpwnam(name)
        finally:
            subprocess.run(["userdel", name], check=True)


@pytest.fixture
def user(request):
    """Who submits: the one who runs Slurm, or another."""
    if getattr(request, "param", "self") == "ordinary":
        return request.getfixturevalue("ordinary")
    return pwd.getpwuid(os.getuid())


@pytest.fixture
def clone(user):
    """The user's own copy of what a job needs, beside which is room for outputs."""
    with public_folder() as folder:
        for name in ("nbodykit_sr", "mpi_scripts"):
            shutil.copytree(ROOT / name, folder / "clone" / name)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
        yield folder / "clone"


@pytest.fixture(scope="module")
def work(examples_data):
    """A snapshot, weights, and options that make many chunks of it: well over a minute on 2 cores."""
    weights = next(path for path in shipped() if path.name.startswith("z2-"))
    with public_folder() as folder:  # a catalogue says where its snapshot lay: one place for all
        shutil.copytree(examples_data / "lr64_100_z2", folder / "LR")
        shutil.copy(weights, folder)
        yield folder / "LR", folder / weights.name, ["--chunk=1", "--region=0:25,0:25,0:50"]


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
def older(work, clone):
    """An older catalogue in the place of the output."""
    output = clone.parent / "SR"
    status, _, err = ended(start(1, work[0], output, "--model=interpolate", "--factor=2"))
    assert status == 0, err
    owner = clone.stat()
    for path in (output, *output.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    return output


@pytest.mark.parametrize(
    "slurm, user, launcher",
    [
        ("pmix", "self", "srun --kill-on-bad-exit=1 --mpi=pmix"),
        ("pmix", "ordinary", "srun --kill-on-bad-exit=1 --mpi=pmix"),
        ("no pmix", "ordinary", "mpirun -n 2"),
    ],
    indirect=["slurm", "user"],
)
def test_a_job_is_warned_queued_again_and_complete(
    slurm, user, launcher, work, clone, whole, older
):
    """Slurm itself warns it, when 1 minute is nearly up; --overwrite begins anew only once."""
    low, weights, options = work
    job, log = slurm.submit(
        user, clone, older.parent, low, f"{older}//", weights, "--overwrite", *options,
        time=1, signal="B:USR1@1",
    )  # fmt: skip
    wait_until(lambda: slurm.state(job)["Restarts"] == "1", patience=5 * MINUTES)
    before = recorded(older)
    assert slurm("scontrol", "update", f"JobId={job}", "TimeLimit=30") == ""
    state = slurm.finished(job)
    text = log.read_text()
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), text
    assert text.count("queued again") == 1 and text.count(f"started by '{launcher}'") == 2, text
    assert 0 < before < CHUNKS
    assert tree(older) == whole
    assert {path.stat().st_uid for path in (log, older, *older.rglob("*"))} == {user.pw_uid}


def test_a_job_that_cannot_begin_is_not_queued_again(slurm, user, clone, work, tmp_path):
    job, log = slurm.submit(user, clone, clone.parent, work[0], tmp_path / "SR", "none.safetensors")
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


def test_a_pbs_job_submits_itself_again(work, clone, whole, older):
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
        cwd=clone,
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
