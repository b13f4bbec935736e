"""The benchmarks measure what they say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bigfile import BigFile

from nbodykit_sr.models.card import ModelCard, save_model
from nbodykit_sr.models.generator import Generator

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import common

    return common


def columns(path):
    with BigFile(str(path)) as file:
        table = {name: file[name][:] for name in ("ID", "Position", "Velocity")}
    order = np.argsort(table["ID"].ravel())
    return {name: values[order] for name, values in table.items()}


@pytest.mark.slow
def test_the_plain_way_makes_the_same_particles(common, tmp_path):
    """Without noise, which each draws in its own way, both give one catalogue."""
    network = Generator(**common.SMALL)
    card = ModelCard("quiet", "displacement", network.arguments, network.factor, network.channels)
    weights = tmp_path / "quiet.safetensors"
    save_model(weights, network, card)
    snapshot = common.make_snapshot(str(tmp_path / "LR"), 12, rms=0.1)
    plain = [sys.executable, BENCHMARKS / "plain.py", snapshot, tmp_path / "plain"]
    ours = [sys.executable, "-m", "nbodykit_sr.generate", snapshot, tmp_path / "ours"]
    common.run([*plain, "--weights", weights, "--chunk", "5"])
    measured = common.run([*ours, "--model", weights, "--chunk", "4"])
    assert measured["memory"] > 1e8 and 0 < measured["cpu"]
    expected, found = columns(tmp_path / "plain"), columns(tmp_path / "ours")
    np.testing.assert_array_equal(found["ID"], expected["ID"])
    box = 12 * 1.5625
    moved = found["Position"] - expected["Position"]
    assert abs(moved - box * np.rint(moved / box)).max() < 1e-4
    np.testing.assert_allclose(found["Velocity"], expected["Velocity"], atol=1e-3)


@pytest.mark.parametrize("order", ["lattice", "shuffled"])
def test_a_simulated_exchange_is_whole(common, order):
    """What all ranks send is what all receive; each fills its block and has its chunks."""
    import scale

    from nbodykit_sr.chunks import ChunkGrid

    grid, ranks = ChunkGrid(16, 4), 12
    every = [scale.simulate(rank, grid, ranks, order) for rank in range(ranks)]
    assert sum(one["sent"] for one in every) == sum(one["received"] for one in every) > 0
    assert sum(one["chunks"] for one in every) == 64
    assert all(0 < one["messages"] < ranks for one in every)


def test_every_stage_is_timed(data, tmp_path):
    """The functions are there, and their times and the rest are all of the command's."""
    (tmp_path / "took").mkdir()
    words = ["--rank", tmp_path / "took", "halos", data / "hr64_12p5_z2", tmp_path / "halos"]
    subprocess.run([sys.executable, BENCHMARKS / "analysis.py", *words], check=True)
    (took,) = (json.loads(path.read_text()) for path in (tmp_path / "took").iterdir())
    assert took["stages"]["link"] > 0 < took["stages"]["overdensity"] and took["memory"] > 1e8


def test_a_command_that_fails_is_told(common):
    with pytest.raises(RuntimeError, match="no such option"):
        common.run([sys.executable, "-c", "raise SystemExit('no such option')"])


@pytest.mark.slow
def test_the_report_names_the_machine(tmp_path):
    results = tmp_path / "results.json"
    command = [sys.executable, BENCHMARKS / "run.py", "--only", "disk", "--output", results]
    for _ in range(2):  # its own results are replaced
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "cores" in done.stdout and "Writing" in done.stdout
        assert json.loads(results.read_text())["disk"]["plain"] > 0


def test_results_of_others_are_not_replaced(tmp_path):
    notes = tmp_path / "notes.json"
    notes.write_text("mine")
    command = [sys.executable, BENCHMARKS / "run.py", "--only", "disk", "--output"]
    for output, said in ((notes, "is no summary"), (tmp_path / "none" / "x", "does not exist")):
        done = subprocess.run([*command, output], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr
    assert notes.read_text() == "mine"


@pytest.mark.slow
def test_gpu_needs_torch_alone():
    """Where there is neither MPI nor nbodykit; and a device agrees with itself."""
    program = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(('mpi4py', 'nbodykit', 'bigfile', 'dask')));"
        f"sys.path.insert(0, {str(BENCHMARKS)!r});"
        "sys.argv = ['gpu.py', '--device', 'cpu', '--small'];"
        f"runpy.run_path({str(BENCHMARKS / 'gpu.py')!r}, run_name='__main__')"
    )
    found = json.loads(subprocess.check_output([sys.executable, "-c", program], timeout=600))
    for rows in found["agreement"].values():
        assert (
            rows["float32"]["largest difference"]
            == 0
            < rows["bfloat16"]["largest difference"]
            < 0.02
        )
    assert found["training"]["seconds"] > 0 and found["generator"]["chunks"]
