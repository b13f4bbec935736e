"""Nothing that this project did not make is replaced, removed or written into, by any command."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
from commands import copy, forked, tree
from helpers import saved_model
from mpi4py import MPI
from test_disk import small_disk  # noqa: F401

from nbodykit_sr.commands import emulate, generate, halos, lightcone, train, validate
from nbodykit_sr.commands.command import enter
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.atomic import atomic_file, save_figure
from nbodykit_sr.io.preflight import CATALOGUE, FIGURE, PAIR, REPORT, prepare_output
from nbodykit_sr.io.staging import Staging, staged
from nbodykit_sr.models.density import DensityEmulator
from nbodykit_sr.training.pairs import Pair

COMM = MPI.COMM_SELF


@pytest.fixture
def inputs(data, tmp_path):
    """Copies of what the commands read, for them to destroy."""
    folder = tmp_path / "inputs"
    for name in ("lr8_12p5_z2", "lr8_12p5_z4", "lr16_25_z2", "lr16_25_IC", "hr64_12p5_z2"):
        if name != "hr64_12p5_z2":
            copy(data / name, folder / name)
    (folder / "hr64_12p5_z2").symlink_to(data / "hr64_12p5_z2")
    saved_model(folder / "density.safetensors", DensityEmulator(filters=1), Omega_m=0.3)
    return folder


# each command's arguments but for its output, its input that an output could destroy, its options
# that ask for replacement
COMMANDS = {
    "generate": (
        generate.main,
        lambda i, out: [i / "lr8_12p5_z2", out, "--model=interpolate", "--factor=2"],
        "lr8_12p5_z2",
        (["--overwrite"], ["--resume"], ["--overwrite", "--resume"]),
    ),
    "lightcone": (
        lightcone.main,
        lambda i, out: [
            *(i / "lr8_12p5_z2", i / "lr8_12p5_z4", out, "--zmin=2.5", "--zmax=3", "--angle=1"),
            *("--model=interpolate", "--factor=2"),
        ],
        "lr8_12p5_z4",
        (["--overwrite"], ["--resume"], ["--overwrite", "--maps=8", "--maps-only"]),
    ),
    "emulate": (
        emulate.main,
        lambda i, out: [
            *(i / "lr16_25_z2", i / "lr16_25_IC", out, "--nmesh=8", "--chunk=4"),
            f"--model={i / 'density.safetensors'}",
        ],
        "lr16_25_IC",
        (["--overwrite"],),
    ),
    "validate": (
        validate.main,
        lambda i, out: ["--sr", i / "lr16_25_z2", "--out", out, "--mesh=32", "--quiet"],
        "lr16_25_z2",
        (["--overwrite"],),
    ),
    "halos": (halos.main, lambda i, out: [i / "lr16_25_z2", out], "lr16_25_z2", (["--overwrite"],)),
    "pairs": (
        lambda argv, comm: train.pairs(argv, comm),
        lambda i, out: [i / "lr8_12p5_z2", i / "hr64_12p5_z2", out],
        "lr8_12p5_z2",
        ([],),
    ),
}


@pytest.fixture(params=[(name, n) for name, c in COMMANDS.items() for n in range(len(c[3]))])
def command(request, inputs, tmp_path, capfd):
    """A command that must refuse an output, leaving everything as it is; gives what it says."""
    name, number = request.param
    main, arguments, victim, options = COMMANDS[name]

    def run(output):
        before = {str(p): os.readlink(p) for p in tmp_path.rglob("*") if p.is_symlink()}
        before |= tree(tmp_path)
        capfd.readouterr()
        argv = [str(a) for a in arguments(inputs, output)] + options[number]
        with pytest.raises(SystemExit) as stop:
            enter(main, name, COMM, argv)
        said = capfd.readouterr().err
        assert stop.value.code == 2 and said.count("\n") == 1, said
        after = {str(p): os.readlink(p) for p in tmp_path.rglob("*") if p.is_symlink()}
        assert after | tree(tmp_path) == before
        return said

    run.victim = inputs / victim
    return run


def test_an_output_that_is_an_input(command, tmp_path):
    link, above = tmp_path / "link", tmp_path / "above"
    link.symlink_to(command.victim)
    above.symlink_to(command.victim.parent)
    for output in (
        command.victim,
        f"{command.victim}/",
        command.victim / "inside",
        command.victim.parent,
        link,
        link / "inside",
        above / command.victim.name,
    ):
        assert "overlap" in command(output), output


def test_an_input_that_is_damaged(command, tmp_path):
    block = next(b for b in sorted(command.victim.rglob("000000")) if b.stat().st_size > 1)
    content = bytearray(block.read_bytes())
    content[9] ^= 1
    block.write_bytes(content)
    assert "damaged or changed" in command(tmp_path / "out")


def test_an_input_called_as_the_unfinished_output(command, tmp_path):
    command.victim.rename(tmp_path / "out.partial")
    command.victim.symlink_to(tmp_path / "out.partial")
    assert "overlap" in command(tmp_path / "out")


def test_a_foreign_folder(command, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years")
    assert "exists" in command(out)


def test_a_foreign_unfinished_folder(command, tmp_path):
    partial = tmp_path / "out.partial"
    (partial / "catalogue").mkdir(parents=True)
    (partial / "catalogue" / "thesis.tex").write_text("years")
    assert "thesis.tex" in command(tmp_path / "out")
    (partial / "catalogue" / "thesis.tex").rename(tmp_path / "thesis.tex")
    (partial / "catalogue" / "header").symlink_to(tmp_path / "thesis.tex")
    assert "holds catalogue/header" in command(tmp_path / "out")


def test_files_and_links_in_its_place(command, tmp_path):
    out, partial, foreign = (tmp_path / name for name in ("out", "out.partial", "foreign"))
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years")
    for place in (out, partial):
        place.write_text("years")
        command(out)
        place.unlink()
        for target in (foreign, Path("foreign"), tmp_path / "nothing", Path("nothing")):
            place.symlink_to(target)
            command(out)
            place.unlink()


def test_no_folder_to_write_into(command, tmp_path):
    (tmp_path / "file").write_text("")
    assert "does not exist" in command(tmp_path / "file" / "out")


def test_what_a_user_added_to_an_output_stays(tmp_path):
    made = tmp_path / "SR"
    (made / "Header").mkdir(parents=True)
    (made / "Header" / "attr-v2").write_text("SRModelHash")
    prepare_output(made, COMM, CATALOGUE, overwrite=True)
    link = tmp_path / "link"
    link.symlink_to(made)
    with pytest.raises(InputError, match="symbolic link"):
        prepare_output(link, COMM, CATALOGUE, overwrite=True)
    (made / "halos.txt").write_text("")
    with pytest.raises(InputError, match=r"holds halos\.txt"):
        prepare_output(made, COMM, CATALOGUE, overwrite=True)


def test_two_runs_for_one_output(tmp_path):
    with staged(tmp_path / "out", PAIR) as folder:
        (folder / "lr.npy").write_text("of the first")
        with pytest.raises(InputError, match="another run is at work"):
            with staged(tmp_path / "out", PAIR):
                pass
    assert tree(tmp_path / "out") == {"lr.npy": b"of the first"}
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_what_a_killed_run_left_is_taken_over(tmp_path):
    staging = Staging(tmp_path / "out", PAIR)
    staging.begin()
    os.mkdir(staging.content)
    Path(staging.content, "lr.npy").write_text("half")
    staging.lock.release()
    prepare_output(tmp_path / "out", COMM, PAIR)
    with staged(tmp_path / "out", PAIR) as folder:
        assert list(folder.iterdir()) == []


def test_the_old_one_goes_when_the_new_one_is_whole(tmp_path):
    """Also if the run fails, or is killed, at the moment when names change."""
    out = tmp_path / "report"

    def write(text):
        with staged(out, REPORT, overwrite=True) as folder:
            (folder / "report.json").write_text(f'{{"nbodykit_sr": "{text}"}}')

    write("old")
    old = tree(out)
    with pytest.raises(InputError, match="full"), staged(out, REPORT, overwrite=True) as folder:
        (folder / "report.json").write_text("half")
        raise InputError("the disk is full")
    assert tree(out) == old and list(tmp_path.iterdir()) == [out]

    def failing(n, killed):
        rename, seen = os.rename, []

        def call(*names):
            seen.append(names)
            if len(seen) == n:
                if killed:
                    os._exit(9)
                raise OSError(5, "Input/output error")
            rename(*names)

        os.rename = call
        with pytest.raises(InputError, match="Input/output"):
            write("new")

    for n in (1, 2):
        assert forked(lambda n=n: failing(n, killed=False)) == 0
        assert tree(out) == old and list(tmp_path.iterdir()) == [out]
    assert os.waitstatus_to_exitcode(forked(lambda: failing(2, killed=True))) == 9
    assert not out.exists()
    with pytest.raises(InputError, match="full"), staged(out, REPORT, overwrite=True):
        raise InputError("the disk is full")
    assert tree(out) == old  # the next run gives it its name back
    write("new")
    assert tree(out) != old and list(tmp_path.iterdir()) == [out]


def test_nothing_of_others_is_removed_with_the_unfinished_folder(tmp_path):
    with staged(tmp_path / "out", PAIR) as folder:
        (folder.parent / "notes.txt").write_text("mine")
    assert (tmp_path / "out.partial" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("ask", [[], ["--overwrite"]])
def test_a_summary_that_can_not_be_written(inputs, tmp_path, capfd, ask):
    lr, out = inputs / "lr8_12p5_z2", tmp_path / "SR"
    notes, link = tmp_path / "notes.json", tmp_path / "link"
    notes.write_text('{"mine": 1}')
    link.symlink_to(tmp_path / "nothing")
    before = tree(tmp_path)
    for place in (
        notes,
        link,
        tmp_path,
        "/dev/full",
        lr / "1" / "Position" / "header",
        lr / "new.json",
        out / "summary.json",
        f"{out}.partial",
        inputs / "density.safetensors",
    ):
        argv = [lr, out, "--model=interpolate", "--factor=2", f"--json={place}", *ask]
        with pytest.raises(SystemExit) as stop:
            enter(generate.main, "generate", COMM, [str(a) for a in argv])
        said = capfd.readouterr().err
        assert stop.value.code == 2 and said.count("\n") == 1, said
        assert tree(tmp_path) == before, place


def test_a_summary_is_replaced_if_asked(inputs, tmp_path):
    plan = [str(inputs / "lr8_12p5_z2"), "x", "--model=interpolate", "--plan"]
    plan.append(f"--json={tmp_path / 'plan.json'}")
    assert generate.main(plan, COMM) == 0
    assert json.loads((tmp_path / "plan.json").read_text())["particles"] == 64**3
    with pytest.raises(InputError, match="exists"):
        generate.main(plan, COMM)
    assert generate.main([*plan, "--overwrite"], COMM) == 0
    # a full catalogue is not touched by a plan that is named so
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inputs", "plan.json"]


def test_a_file_of_anothers_beside_an_output_stays(tmp_path):
    (tmp_path / "w.safetensors.partial").write_text("mine")
    with atomic_file(tmp_path / "w.safetensors") as file:
        file.write(b"weights")
    assert (tmp_path / "w.safetensors.partial").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_figures_of_the_examples(tmp_path):
    from matplotlib.figure import Figure

    photo, own = tmp_path / "photo.png", tmp_path / "own.png"
    Figure().savefig(photo)
    save_figure(Figure(), own)
    prepare_output(own, COMM, FIGURE, overwrite=True)
    with pytest.raises(InputError, match="is no figure of this command"):
        prepare_output(photo, COMM, FIGURE, overwrite=True)


@pytest.fixture
def example():
    pytest.importorskip("fastpm")
    path = Path(__file__).parents[2] / "examples" / "make_pairs.py"
    spec = importlib.util.spec_from_file_location("make_pairs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_make_pairs_on_a_full_disk(example, small_disk):  # noqa: F811
    """The LR snapshot fits; of the HR one nothing is left."""
    (small_disk / "filler").write_bytes(bytes(1_400_000))
    argv = ["--seeds=1", "--nmesh=4", "--factor=4", "--step=0.3", "--redshifts=9"]
    with pytest.raises(InputError, match="No space left"):
        example.main([str(small_disk), *argv], COMM)
    assert [path.name for path in (small_disk / "1").iterdir()] == ["LR_z9"]


def test_make_pairs_keeps_no_other_box(example, tmp_path, monkeypatch):
    small = ["--nmesh=4", "--factor=2", "--step=0.3", "--redshifts", "9"]
    argv = [str(tmp_path), "--seeds", "1", *small]
    example.main([*argv, "--boxsize=10"], COMM)
    before = tree(tmp_path)
    monkeypatch.setattr(example, "simulate", None)  # what is there is not made again
    example.main([*argv, "--boxsize=10"], COMM)
    for change in (["--boxsize=12"], ["--boxsize=10", "--unitary"], ["--boxsize=10", "--nmesh=8"]):
        with pytest.raises(InputError, match="is there with"):
            example.main([*argv, *change], COMM)
    (tmp_path / "2" / "LR_z9").mkdir(parents=True)
    (tmp_path / "2" / "LR_z9" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        example.main([argv[0], "--seeds", "2", *small], COMM)
    before["2/LR_z9/notes.txt"] = b"mine"
    assert tree(tmp_path) == before


@pytest.fixture
def run(inputs, data, tmp_path):
    """The arguments of a short training run in the folder `tmp_path / "run"`."""
    pair = tmp_path / "pair"
    lr, hr = (str(data / name) for name in ("lr8_12p5_z2", "hr64_12p5_z2"))
    train.pairs([lr, hr, str(pair)], COMM)
    assert Pair(pair).manifest.Nmesh == 8
    toml = tmp_path / "train.toml"
    toml.write_text(
        f"""
        run = "{tmp_path}/run"
        device = "cpu"
        pairs.train = ["{pair}"]
        sample.crop = 3
        generator.chan_base = 8
        generator.chan_min = 4
        critic.blocks = 2
        critic.chan_base = 8
        critic.chan_min = 4
        [[stage]]
        name = "L2"
        steps = 1
        l2 = 1.0
        """
    )
    return [str(toml)]


def test_run_folders(run, tmp_path):
    folder = tmp_path / "run"
    # somebody else's log
    folder.mkdir()
    (folder / "log.jsonl").write_text('{"mine": 1}\n{"mine": 2}\n')
    with pytest.raises(InputError, match=r"holds a log\.jsonl that is of no run"):
        train.main(run, COMM)
    assert tree(folder) == {"log.jsonl": b'{"mine": 1}\n{"mine": 2}\n'}
    (folder / "log.jsonl").unlink()
    # a file, or a link into nothing
    folder.rmdir()
    folder.write_text("mine")
    with pytest.raises(InputError, match="can't be written"):
        train.main(run, COMM)
    folder.unlink()
    folder.symlink_to(tmp_path / "nothing" / "deep")
    with pytest.raises(InputError, match="can't be written"):
        train.main(run, COMM)
    folder.unlink()
    # a refused run leaves no folder
    with pytest.raises(InputError, match="no sound checkpoint to resume"):
        train.main([*run, "--resume"], COMM)
    assert not folder.exists()
    # another run at work
    from nbodykit_sr.training.run_log import claimed

    with claimed(folder), pytest.raises(InputError, match="another run is at work"):
        train.main(run, COMM)
    assert train.main(run, COMM) == 0
    assert not (folder / "lock").exists() and (folder / "log.jsonl").read_text()
    weights = tmp_path / "w.safetensors"
    weights.symlink_to(tmp_path / "nothing" / "w")
    with pytest.raises(InputError, match="symbolic link"):
        train.export([str(folder), str(weights)], COMM)
    assert weights.is_symlink()


def test_pairs_are_of_one_run_each(data, tmp_path):
    lr, hr = (str(data / name) for name in ("lr8_12p5_z2", "hr64_12p5_z2"))
    with staged(tmp_path / "pair", PAIR) as folder:
        (folder / "lr.npy").write_text("of the first")
        with pytest.raises(InputError, match="another run is at work"):
            train.pairs([lr, hr, str(tmp_path / "pair")], COMM)
    assert tree(tmp_path) == {"pair/lr.npy": b"of the first"}


@pytest.mark.parametrize("name", ["pairs", "validate"])
def test_a_full_disk_is_one_line(name, inputs, small_disk, capfd):  # noqa: F811
    main, arguments, _, _ = COMMANDS[name]
    argv = [str(a) for a in arguments(inputs, small_disk / "out")]
    if name == "validate":  # its room goes while it measures
        (small_disk / "filler").write_bytes(bytes(1_300_000))
    before = list(small_disk.iterdir())
    capfd.readouterr()
    status = forked(lambda: enter(main, name, COMM, argv))
    said = capfd.readouterr().err
    assert os.waitstatus_to_exitcode(status) == 2 and said.count("\n") == 1, said
    assert "No space left" in said and list(small_disk.iterdir()) == before
