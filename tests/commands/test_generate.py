"""The main job: a snapshot in, a BigFile catalogue out, the same bytes for any rank count."""

import json
import shlex
from dataclasses import replace

import bigfile
import numpy as np
import pytest
from commands import tree
from helpers import gathered
from nbodykit.lab import FOF, BigFileCatalog, FFTPower

from nbodykit_sr import InputError, SRCatalog, open_snapshot
from nbodykit_sr.commands.generate import generate, main
from nbodykit_sr.commands.generate_options import GenerateOptions, parse
from nbodykit_sr.commands.verify import verify
from nbodykit_sr.io.layout import NBODYKIT

pytestmark = pytest.mark.mpi

COLUMNS = ("Position", "Velocity", "ID")


@pytest.fixture
def job(comm, data, tmp_path):
    """Run the main job on a small snapshot; returns the output's path."""

    def run(output="sr", comm=comm, input="lr8_12p5_z2", **options):
        options = {"model": str(data / "vectors/map2map_6ch.pt"), "flavour": "map2map", **options}
        if options["model"] == "interpolate":
            options["flavour"] = None
        path = tmp_path / output
        assert generate(GenerateOptions(str(data / input), str(path), **options), comm) == 0
        return path

    return run


@pytest.mark.mpi(ranks=4)
@pytest.mark.parametrize("layout", ["nbodykit", "mp-gadget"])
def test_the_same_bytes_for_any_number_of_ranks(alone, job, layout):
    together = job("together", layout=layout, seed=7)
    apart = alone(lambda comm: job("alone", comm, layout=layout, seed=7))
    assert tree(together) == tree(apart)


def test_the_files_hold_what_the_catalogue_computes(comm, data, job):
    sr = SRCatalog(
        open_snapshot(data / "lr8_12p5_z2", comm),
        model=data / "vectors/map2map_6ch.pt",
        flavour="map2map",
        seed=7,
    )
    written = BigFileCatalog(str(job(seed=7)), comm=comm)
    assert written.csize == sr.csize == 64**3
    for name in sr.names:
        a, b = gathered(sr, name), gathered(written, name)
        np.testing.assert_array_equal(a, b.reshape(a.shape))


def test_a_plain_bigfilecatalog_is_analysed_as_it_stands(comm, job):
    catalog = BigFileCatalog(str(job(model="interpolate", seed=1)), comm=comm)
    np.testing.assert_array_equal(catalog.attrs["BoxSize"], [12.5, 12.5, 12.5])
    assert np.isfinite(FFTPower(catalog, mode="1d", Nmesh=32).power["power"].real[1:]).all()
    assert FOF(catalog, linking_length=0.4, nmin=31).find_features().csize > 0


def test_the_mpgadget_layout_is_a_snapshot(comm, data, job):
    path = job(layout="mp-gadget", seed=2)
    with bigfile.File(str(path)) as file:
        attrs = file["Header"].attrs
        assert attrs["BoxSize"].tolist() == [12500.0]
        assert attrs["TotNumPart"].tolist() == [0, 64**3, 0, 0, 0, 0]
        assert attrs["TotNumPart"].dtype == "u8" and attrs["MassTable"].dtype == "f8"
        with bigfile.File(str(data / "lr8_12p5_z2")) as lr:
            source = lr["Header"].attrs
            assert set(source.keys()) <= set(attrs.keys())
            np.testing.assert_allclose(attrs["MassTable"], source["MassTable"] / 512, rtol=1e-4)
            assert attrs["RSDFactor"] == source["RSDFactor"]
        ids = file["1/ID"][:].ravel()
        assert ids.dtype == "u8" and ids.min() == 1 and len(np.unique(ids)) == 64**3
        assert file["1/Position"].dtype == ("f8", 3) and file["1/Velocity"].dtype == ("f4", 3)
    again = open_snapshot(path, comm)
    plain = open_snapshot(job("plain", seed=2), comm)
    np.testing.assert_allclose(again["Position"].compute(), plain["Position"].compute(), atol=2e-6)
    np.testing.assert_array_equal(again["Velocity"].compute(), plain["Velocity"].compute())
    assert again.attrs["ParticleMass"] == plain.attrs["ParticleMass"]


def test_super_resolution_can_be_repeated_on_its_output(comm, job, tmp_path):
    first = job(model="interpolate", factor=2)
    options = GenerateOptions(str(first), str(tmp_path / "twice"), model="interpolate", factor=2)
    assert generate(options, comm) == 0
    assert open_snapshot(tmp_path / "twice", comm).csize == 32**3


def test_regions_are_identical_to_the_full_run(comm, job):
    region = ((0.0, 3.0), (4.0, 9.0), (12.0, 13.0))
    whole = open_snapshot(job("whole", seed=3, chunk=2), comm)
    part = open_snapshot(job("part", seed=3, chunk=2, region=region), comm)
    ids, position = gathered(whole, "ID", "Position")
    position = position[np.argsort(ids)]
    np.testing.assert_array_equal(
        part["Position"].compute(), position[part["ID"].compute().astype(int) - 1]
    )
    assert 0 < part.csize < whole.csize


def test_the_summary(comm, job, tmp_path, capsys):
    job(seed=5, json=str(tmp_path / "summary.json"))
    if comm.rank == 0:
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["particles"] == 64**3 and summary["ranks"] == comm.size
        assert "262144 particles" in capsys.readouterr().out


def test_the_plan_runs_nothing(comm, data, tmp_path, capsys):
    options = [str(data / "lr16_25_z2"), str(tmp_path / "sr"), "--plan", "--model", "interpolate"]
    assert main([*options, "--json", str(tmp_path / "plan.json")], comm) == 0
    assert not (tmp_path / "sr").exists() and not (tmp_path / "sr.partial").exists()
    if comm.rank == 0:
        assert (
            f"{NBODYKIT.particle_bytes(COLUMNS) * 128**3 / 1e9:.3g} GB" in capsys.readouterr().out
        )
        assert json.loads((tmp_path / "plan.json").read_text())["particles"] == 128**3


def test_an_existing_output_is_kept(comm, job):
    path = job(seed=1, model="interpolate")
    before = tree(path)
    with pytest.raises(InputError, match="exists.*--overwrite"):
        job(seed=2, model="interpolate")
    assert tree(path) == before
    job(seed=2, model="interpolate", overwrite=True, factor=2)
    assert tree(path) != before


def test_options():
    options = parse("in out --region 0:1,2:3.5,-1:2 --seed 3 --chunk 8 --model m.pt".split())
    assert options.region == ((0, 1), (2, 3.5), (-1, 2)) and options.chunk == 8
    options = parse(["in", "out", "--region", "-5:5, 0:1,-.5:1e1", "--columns", "Position, ID"])
    assert options.region == ((-5, 5), (0, 1), (-0.5, 10)) and options.columns == ("Position", "ID")
    with pytest.raises(InputError, match="required: output"):
        parse(["in"])


def by_id(comm, path):
    """IDs in ascending order and their positions, on every rank."""
    ids, position = gathered(open_snapshot(path, comm), "ID", "Position")
    order = np.argsort(ids)
    return ids[order], position[order]


@pytest.mark.mpi(ranks=4)
def test_a_subsample_is_the_same_particles_whoever_computes_them(comm, job):
    ids, position = by_id(comm, job("whole", model="interpolate", factor=4))
    some, at = by_id(comm, job("some", model="interpolate", factor=4, subsample=0.1))
    assert len(some) == pytest.approx(0.1 * len(ids), rel=0.05)
    np.testing.assert_array_equal(at, position[np.searchsorted(ids, some)])
    other, _ = by_id(comm, job("other", model="interpolate", factor=4, subsample=0.1, chunk=3))
    np.testing.assert_array_equal(other, some)
    path = job("few", model="interpolate", factor=4, subsample=0.0007)
    assert verify(str(path), comm) == []
    few, _ = by_id(comm, path)
    assert 0 < len(few) < 60 and set(few) <= set(some)  # most chunks keep none


@pytest.mark.parametrize("layout", ["nbodykit", "mp-gadget"])
def test_only_what_is_wanted_is_written_and_verified(comm, alone, job, tmp_path, layout):
    wanted = {"columns": ("Position",), "subsample": 0.2, "layout": layout, "seed": 7}
    part = job("part", **wanted)
    assert verify(str(part), comm) == []
    catalog = open_snapshot(part, comm)
    assert catalog.header.columns == ("Position",)
    assert tree(part) == tree(alone(lambda comm: job("alone", comm, **wanted)))
    words = shlex.split(catalog.attrs["SRCommand"])
    assert "--columns=Position" in words and "--subsample=0.2" in words
    options = parse([str(part) if word == "OUTPUT" else word for word in words[3:]])
    assert generate(replace(options, resume=True), comm) == 0
    with pytest.raises(InputError, match="subsample 0.2, not None"):
        generate(replace(options, subsample=1.0, resume=True), comm)


def test_selections_that_make_no_sense(comm, data, tmp_path):
    for words, message in (
        (["--columns=Density"], "Position and any of Velocity, ID"),
        (["--columns=ID"], "columns are ID"),
        (["--subsample=0"], "a part above 0"),
        (["--subsample=nan"], "a part above 0"),
        (["--subsample=1e-12"], "is none"),
    ):
        argv = [str(data / "lr8_12p5_z2"), str(tmp_path / "no"), "--chunk=4", *words]
        with pytest.raises(InputError, match=message):
            main(argv, comm)
        assert not list(tmp_path.iterdir())
