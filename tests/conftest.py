"""One test suite for one process and for several ranks of mpirun.

Under several ranks only the tests marked `mpi` are run, by all ranks together: under two ranks all
of them, under three and four those marked `mpi(ranks=4)`. After each of them the ranks agree on its
outcome: one failure fails it everywhere, and rank 0 shows it. A rank that failed while the others
wait for it inside the test ends the whole run.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch read it

import hypothesis
import pytest
from jaxtyping import install_import_hook
from mpi4py import MPI

# shapes and number formats that signatures name are checked at each call
CHECKED = (
    *("noise", "phases", "initial_conditions", "inference"),
    *("models.blocks", "models.upsampling", "models.generator"),
    *("density.network", "density.painting", "density.particles", "density.triplets"),
)
install_import_hook([f"nbodykit_sr.{name}" for name in CHECKED], "beartype.beartype")

WORLD = MPI.COMM_WORLD
if WORLD.size > 1:
    # several processes that clear pytest's common folder at once trip over each other
    root = tempfile.TemporaryDirectory(prefix=f"rank{WORLD.rank}-")
    os.environ["PYTEST_DEBUG_TEMPROOT"] = root.name
VERDICTS = WORLD.Dup()  # so that a verdict never meets a message of the test
SECONDS_AFTER_FAILURE = 30
SECONDS_AFTER_SUCCESS = 600

# every rank must draw the same examples
hypothesis.settings.register_profile("ranks", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("ranks")


@pytest.fixture(scope="session")
def comm():
    """All ranks the tests run on."""
    return WORLD


@pytest.fixture(scope="session")
def alone(comm):
    """What a function of a communicator gives on one rank alone, on every rank."""

    def run(function):
        return comm.bcast(function(MPI.COMM_SELF) if comm.rank == 0 else None)

    return run


@pytest.fixture
def tmp_path(tmp_path):
    """pytest's temporary folder; under several ranks that of rank 0, for all of them."""
    return Path(WORLD.bcast(str(tmp_path)))


@pytest.fixture(scope="session")
def data():
    """Folder of the small real snapshots; reference vectors lie in its `vectors`."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def examples_data():
    """Folder of the snapshots shipped with the examples."""
    return Path(__file__).parents[1] / "examples" / "data"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if WORLD.rank > 0:  # rank 0 speaks for all
        sys.stdout = open(os.devnull, "w")


def pytest_ignore_collect(collection_path):
    """A module without a test for so many ranks is not imported by each of them."""
    if WORLD.size > 1 and collection_path.suffix == ".py":
        mark = "mark.mpi" if WORLD.size == 2 else "mark.mpi(ranks=4)"
        return mark not in collection_path.read_text() or None
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if WORLD.size == 1:
        return
    kept = [item for item in items if WORLD.size <= most_ranks(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
    if len(set(VERDICTS.allgather(tuple(item.nodeid for item in items)))) > 1:
        raise pytest.UsageError("the ranks collected different tests")


def most_ranks(item):
    """The largest number of ranks that a test is run under."""
    mark = item.get_closest_marker("mpi")
    return mark.kwargs.get("ranks", 2) if mark else 1


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if WORLD.size == 1:
        return report
    failures = agree(report)
    if failures and not report.failed:
        report.outcome = "failed"
        report.longrepr = "\n\n".join(failures)
    return report


def agree(report):
    """What failed on any rank; ends the run if the other ranks never come to say."""
    failure = f"[rank {WORLD.rank}] {report.longreprtext}" if report.failed else None
    receipt = VERDICTS.Ibarrier()
    patience = SECONDS_AFTER_SUCCESS if report.passed else SECONDS_AFTER_FAILURE
    start = time.monotonic()
    while not receipt.Test():
        if time.monotonic() - start > patience:
            print(
                f"\n{report.nodeid} ({report.when}): {report.outcome} on rank {WORLD.rank}, but "
                f"the other ranks have been in it for {patience} s more: ending the run\n"
                f"{report.longreprtext}",
                file=sys.__stderr__,
                flush=True,
            )
            WORLD.Abort(1)
        time.sleep(1e-3)
    return [text for text in VERDICTS.allgather(failure) if text is not None]
