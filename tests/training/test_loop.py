import gc
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from training_cases import make_pair, make_system, table

from nbodykit_sr.catalog import SRCatalog
from nbodykit_sr.commands import train as commands
from nbodykit_sr.commands.train import _address, main
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import open_snapshot
from nbodykit_sr.models.loading import load_generator
from nbodykit_sr.training.configuration import Stage
from nbodykit_sr.training.distributed import Ranks, join, leave
from nbodykit_sr.training.export import export
from nbodykit_sr.training.loop import Schedule, Trainer
from nbodykit_sr.training.samples import Samples

ALONE = Ranks(torch.device("cpu"))


@pytest.fixture
def settings(tmp_path, comm):
    if comm.rank == 0:
        make_pair(tmp_path / "pair")
    comm.Barrier()
    return table(tmp_path)


def lines(run, kind):
    with open(f"{run}/log.jsonl") as file:
        return [line for line in map(json.loads, file) if line["kind"] == kind]


class StopAt:
    """True from the given call on, as a signal would make the list of `command.stop_requests`."""

    def __init__(self, calls):
        self.calls = calls

    def __bool__(self):
        self.calls -= 1
        return self.calls < 0


@pytest.mark.parametrize("stop, optimizer", [(2, "adam"), (3, "adam"), (6, "adam"), (3, "muon")])
def test_resumed_is_uninterrupted(settings, tmp_path, stop, optimizer):
    """Weights, average, optimisers and logs, bit for bit, wherever the run stopped."""
    torch.set_num_threads(1)
    settings["optimizer"] = optimizer
    Trainer(make_system(settings), ALONE).run()
    whole = torch.load(tmp_path / "run/checkpoints/step-00000008.pt", weights_only=True)
    logged = lines(tmp_path / "run", "train") + lines(tmp_path / "run", "evaluation")
    settings = {**settings, "run": str(tmp_path / "again")}
    assert not Trainer(make_system(settings), ALONE).run(StopAt(stop))
    trainer = Trainer(make_system(settings), ALONE, resume=True)
    assert trainer.step == stop + 1
    assert trainer.run()
    again = torch.load(tmp_path / "again/checkpoints/step-00000008.pt", weights_only=True)
    again["configuration"]["run"] = whole["configuration"]["run"]
    again["card"]["name"] = whole["card"]["name"]
    assert_same(again, whole)
    assert lines(tmp_path / "again", "train") + lines(tmp_path / "again", "evaluation") == logged


def assert_same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_a_killed_run_goes_on_from_what_is_sound(settings, tmp_path):
    """Killed while it wrote a checkpoint and a line of the log."""
    torch.set_num_threads(1)
    Trainer(make_system(settings), ALONE).run()
    wanted = lines(tmp_path / "run", "train")
    last = tmp_path / "run/checkpoints/step-00000008.pt"
    last.write_bytes(last.read_bytes()[:1000])
    with open(tmp_path / "run/log.jsonl", "a") as file:
        file.write('{"kind": "train", "st')
    trainer = Trainer(make_system(settings), ALONE, resume=True)
    assert trainer.step == 6
    trainer.run()
    assert lines(tmp_path / "run", "train") == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, status", [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGINT, 130)]
)
def test_a_process_that_gets_a_signal(tmp_path, number, status):
    make_pair(tmp_path / "pair")
    (tmp_path / "train.toml").write_text(
        f"""
        run = "{tmp_path}/run"
        device = "cpu"
        log_every = 1
        pairs.train = ["{tmp_path}/pair"]
        sample.crop = 4
        generator.channels = 3
        generator.chan_base = 8
        critic.blocks = 1
        checkpoints.every = 1
        [[stage]]
        steps = 40
        l2 = 1.0
        learning_rate = 1e-3
        """
    )
    command = [sys.executable, "-m", "nbodykit_sr", "train", str(tmp_path / "train.toml")]
    log = tmp_path / "run/log.jsonl"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (log.exists() and len(log.read_text()) > 500):
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == status
    assert len(log.read_text().splitlines()) < 40
    resumed = subprocess.run([*command, "--resume"], stderr=subprocess.PIPE, text=True)
    assert resumed.returncode == 0, resumed.stderr
    killed = lines(tmp_path / "run", "train")
    shutil.rmtree(tmp_path / "run")
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    assert lines(tmp_path / "run", "train") == killed


@pytest.mark.mpi(ranks=4)
def test_ranks_share_a_batch(settings, tmp_path, comm):
    """Losses of a run on several ranks are those of a run on one with the same global batch."""
    settings["batch"] = 12
    for stage in settings["stage"]:
        stage.update(learning_rate=1e-4, steps=2)
    address = comm.bcast(_address() if comm.rank == 0 else None)
    ranks = join(torch.device("cpu"), comm.rank, comm.size, address)
    try:
        if 12 % comm.size:
            return
        trainer = Trainer(make_system(settings), ranks)
        trainer.run()
        weights = torch.cat([p.detach().flatten() for p in trainer.generator.parameters()])
    finally:
        leave(ranks)
    # one that outlives its ranks may hang when it dies, one time in some hundred
    assert DistributedDataParallel not in map(type, gc.get_objects())
    everyone = comm.allgather(weights.numpy())
    assert all(np.array_equal(everyone[0], other) for other in everyone)
    settings["run"] = str(tmp_path / f"alone{comm.rank}")
    settings["evaluation"]["every"] = 0
    Trainer(make_system(settings), ALONE).run()
    comm.Barrier()
    for one, other in zip(
        lines(tmp_path / "run", "train"), lines(settings["run"], "train"), strict=True
    ):
        assert one.keys() == other.keys()
        for name in one.keys() - {"kind", "stage"}:
            assert one[name] == pytest.approx(other[name], rel=2e-3, abs=1e-5)


def test_schedule():
    stages = [
        Stage(name="a", epochs=2, l2=1.0, learning_rate=1.0, decay=0.1),
        Stage(name="b", steps=6, adversarial="relativistic", critic_steps=3, batch_doubles_every=2),
    ]
    schedule = Schedule(stages, batch=4, samples_per_epoch=9.0)
    assert schedule.lengths == [5, 6] and schedule.steps == 11
    assert [schedule.at(step)[0].name for step in range(11)] == ["a"] * 5 + ["b"] * 6
    assert schedule.rate(0) == 1 and schedule.rate(5) == 1e-5
    assert 0.1 < schedule.rate(4) < 0.3
    assert [schedule.batch_at(step) for step in range(4, 11)] == [4, 4, 4, 8, 8, 16, 16]
    assert list(schedule.batches(4)) == [(4, 0, 4)] + [
        (step, part, schedule.batch_at(step)) for step in range(5, 11) for part in range(3)
    ]


def test_samples_do_not_depend_on_ranks_or_threads():
    def draw(rng):
        return {"x": rng.normal(size=3)}

    plan = [(0, 0, 6), (0, 1, 6), (1, 0, 12)]
    whole = [b["x"] for b in Samples(draw, 5, ALONE, workers=3).batches(plan)]
    for size in (2, 3):
        parts = [
            [b["x"] for b in Samples(draw, 5, Ranks(ALONE.device, r, size)).batches(plan)]
            for r in range(size)
        ]
        for number, batch in enumerate(whole):
            assert all(torch.equal(parts[r][number], batch[r::size]) for r in range(size))
    assert len({tuple(row.tolist()) for batch in whole for row in batch}) == 24


def test_held_out_fields_are_compared(settings, tmp_path):
    Trainer(make_system(settings), ALONE).run()
    evaluations = lines(tmp_path / "run", "evaluation")
    assert [line["step"] for line in evaluations] == [4, 8]
    ratios = [value for name, value in evaluations[0].items() if name.startswith("power ")]
    assert len(ratios) > 2 and all(value > 0 for value in ratios)
    assert sorted(p.name for p in (tmp_path / "run/figures").iterdir()) == [
        "step-00000004.png",
        "step-00000008.png",
    ]


def test_l2_training_learns(settings):
    settings["stage"] = [{"steps": 80, "l2": 1.0, "learning_rate": 1e-2}]
    settings["evaluation"]["every"] = 0
    Trainer(make_system(settings), ALONE).run()
    losses = [line["l2"] for line in lines(settings["run"], "train")]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


def test_bfloat16_stays_near_float32(settings, tmp_path):
    settings["stage"] = [{"steps": 2, "l2": 1.0, "adversarial": "relativistic"}]
    Trainer(make_system(settings), ALONE).run()
    exact = lines(settings["run"], "train")
    settings.update(run=str(tmp_path / "bf16"), precision="bfloat16")
    Trainer(make_system(settings), ALONE).run()
    for one, other in zip(exact, lines(settings["run"], "train"), strict=True):
        assert one["l2"] == pytest.approx(other["l2"], rel=0.02)
        assert one["critic"] == pytest.approx(other["critic"], rel=0.02)


def test_a_run_that_turns_nan_stops(settings, tmp_path):
    settings["stage"] = [{"steps": 4, "l2": 1.0}, {"steps": 9, "l2": 1.0, "learning_rate": 1e30}]
    with pytest.raises(InputError) as error:
        Trainer(make_system(settings), ALONE).run()
    assert "not finite at step" in str(error.value)
    assert str(tmp_path / "run/checkpoints/step-00000004.pt") in str(error.value)
    assert Trainer(make_system(settings), ALONE, resume=True).step == 4


def test_what_does_not_fit_is_refused(settings, tmp_path, monkeypatch):
    settings["batch"] = 2**24
    with pytest.raises(InputError, match="GB: lower batch or sample.crop"):
        Trainer(make_system(settings), ALONE)
    settings["batch"] = 1
    (tmp_path / "memory.max").write_text("100000\n")  # as a control group has it
    monkeypatch.setattr("nbodykit_sr.training.memory.LIMIT", tmp_path / "memory.max")
    with pytest.raises(InputError, match="its device has 0.0 GB"):
        Trainer(make_system(settings), ALONE)


def test_memory_that_runs_out_midway(settings, monkeypatch):
    trainer = Trainer(make_system(settings), ALONE)

    def exhausted(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 bytes")

    monkeypatch.setattr(trainer.system, "generate", exhausted)
    with pytest.raises(InputError, match="out of memory at step 0 with batch = 2: lower batch"):
        trainer.run()


def test_a_schedule_can_be_lengthened(settings, caplog):
    Trainer(make_system(settings), ALONE).run()
    settings["stage"][-1]["steps"] += 2
    with caplog.at_level("WARNING"):
        trainer = Trainer(make_system(settings), ALONE, resume=True)
    assert "other settings than before: stage" in caplog.text
    assert trainer.run() and trainer.step == 10
    assert [line["step"] for line in lines(settings["run"], "train")] == list(range(1, 11))


def test_runs_are_not_mixed_up(settings, tmp_path):
    with pytest.raises(InputError, match="no sound checkpoint to resume"):
        Trainer(make_system(settings), ALONE, resume=True)
    Trainer(make_system(settings), ALONE).run()
    with pytest.raises(InputError, match="8 steps: resume it"):
        Trainer(make_system(settings), ALONE)
    with pytest.raises(InputError, match="not the state of this optimizer"):
        Trainer(make_system({**settings, "optimizer": "muon"}), ALONE, resume=True)
    settings["generator"]["chan_base"] = 16
    with pytest.raises(InputError, match="do not fit this configuration"):
        Trainer(make_system(settings), ALONE, resume=True)


def test_starting_from_other_weights(settings, tmp_path):
    first = Trainer(make_system(settings), ALONE)
    first.run()
    later = {**settings, "run": str(tmp_path / "second"), "start": [settings["run"]]}
    second = Trainer(make_system(later), ALONE)
    assert second.step == 0
    for network in (second.generator, second.average):
        assert_same(network.state_dict(), first.average.state_dict())
    assert_same(second.critic.state_dict(), first.critic.state_dict())
    exported = tmp_path / "first.safetensors"
    export(settings["run"], exported)
    later |= {"start": [str(exported)], "critic": {**settings["critic"], "chan_base": 16}}
    third = Trainer(make_system(later), ALONE)
    assert_same(third.generator.state_dict(), first.average.state_dict())
    for key, value, words in (("chan_base", 16, "do not fit"), ("length", 3.0, "length = 6")):
        wrong = {**later, "generator": {**settings["generator"], key: value}}
        with pytest.raises(InputError, match=words):
            Trainer(make_system(wrong), ALONE)


@pytest.mark.mpi
def test_from_snapshots_to_weights(tmp_path, data, comm):
    """The three commands, as a user gives them."""
    pair, toml, out = tmp_path / "pair", tmp_path / "train.toml", tmp_path / "w.safetensors"
    lr, hr = data / "lr8_12p5_z2", data / "hr64_12p5_z2"
    commands.pairs([str(lr), str(hr), str(pair), "--source", "TreePM"], comm)
    if comm.rank == 0:
        toml.write_text(
            f"""
            run = "{tmp_path}/run"
            batch = {comm.size}
            device = "cpu"
            pairs.train = ["{pair}"]
            sample.crop = 3
            generator.chan_base = 8
            generator.chan_min = 4
            critic.blocks = 2
            critic.chan_base = 8
            critic.chan_min = 4
            checkpoints.every = 1
            [[stage]]
            name = "L2"
            steps = 1
            l2 = 1.0
            [[stage]]
            name = "WGAN-GP"
            steps = 1
            adversarial = "wasserstein"
            """
        )
    comm.Barrier()
    assert main([str(toml)], comm) == 0
    with pytest.raises(InputError, match="resume it or name another run"):
        main([str(toml)], comm)
    commands.export([f"{tmp_path}/run", str(out), "--licence", "CC0"], comm)
    comm.Barrier()
    network, card = load_generator(out)
    assert (card.factor, card.channels, card.cell) == (8, 6, 12.5 / 8)
    assert (card.simulation, card.licence, card.name) == ("TreePM", "CC0", "run")
    assert card.redshift == pytest.approx((2, 2)) and card.training["steps"] == 2
    assert "pairs" not in card.training["configuration"]  # nothing of the machine
    state = torch.load(tmp_path / "run/checkpoints/step-00000002.pt", weights_only=True)
    assert_same(dict(network.state_dict()), dict(state["generator"]))
    sr = SRCatalog(open_snapshot(lr, comm), model=str(out), seed=1, device="cpu")
    assert sr.csize == 64**3
    position = sr["Position"].compute()
    assert np.isfinite(position).all() and (position >= 0).all() and (position < 12.5).all()
    comm.Barrier()
    if comm.rank == 0:
        shutil.rmtree(tmp_path / "run")
