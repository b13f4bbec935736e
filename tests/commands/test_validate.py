"""The command that compares catalogues, from snapshots to the page."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI
from nbodykit.lab import ArrayCatalog

from nbodykit_sr.commands import evaluate, generate, validate
from nbodykit_sr.commands.command import enter
from nbodykit_sr.diagnostics import suite
from nbodykit_sr.diagnostics.drawing import shades
from nbodykit_sr.diagnostics.halo_structure import halo_table
from nbodykit_sr.diagnostics.halos import find_halos
from nbodykit_sr.diagnostics.pictures import pictures
from nbodykit_sr.diagnostics.results import Settings
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import open_snapshot
from nbodykit_sr.models.card import ModelCard, build, read_card, save_model
from nbodykit_sr.models.card_summary import worth
from nbodykit_sr.training.export import from_reports


def interpolated(data, tmp_path, comm, seed=0):
    """A catalogue as `generate` writes it."""
    output = str(tmp_path / f"SR_{seed}")
    source = str(data / "lr8_12p5_z2")
    generate.main(
        [source, output, "--seed", str(seed), "--chunk", "4", "--model", "interpolate"], comm
    )
    return output


def copied(source, folder, comm):
    """A snapshot that results may be kept beside."""
    if comm.rank == 0:
        shutil.copytree(source, folder / source.name)
    comm.barrier()
    return str(folder / source.name)


def close(one, two, where=""):
    """The same tree of numbers, to rounding."""
    if isinstance(one, dict):
        assert set(one) == set(two), where
        for key in one:
            close(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for i, pair in enumerate(zip(one, two, strict=True)):
            close(*pair, f"{where}/{i}")
    elif isinstance(one, float) and isinstance(two, (float, int)):
        assert one == pytest.approx(two, rel=1e-9, abs=1e-9), where
    else:
        assert one == two, where


@pytest.mark.mpi
def test_every_number_is_the_same_on_any_number_of_ranks(comm, alone, data, tmp_path):
    sr = interpolated(data, tmp_path, comm)
    paths = {"SR": [sr], "HR": [data / "hr64_12p5_z2"], "LR": [data / "lr8_12p5_z2"]}

    def measured(on):
        box = {kind: [open_snapshot(one, on) for one in many] for kind, many in paths.items()}
        return suite.measure([box], Settings.choose(12.5, 64**3, Nmesh=32))

    together = measured(comm)
    if comm.size > 1:
        close(together.to_dict(), alone(lambda comm: measured(comm).to_dict()))
    # what interpolation must give: LR's large scales, few halos, no small-scale power
    against = together["SR"]["comparison"][0]
    assert abs(against["transfer"][0] - 1) < 0.1 and against["correlation"][0] > 0.95
    assert against["transfer"][-1] < 0.9 and against["correlation"][-1] < 0.9
    totals = [together[kind]["halos"][0].attrs["total"] for kind in ("SR", "HR")]
    assert totals[0] < 0.5 * totals[1]


@pytest.mark.mpi
def test_hr_is_measured_once(comm, data, tmp_path):
    """Kept beside it, and the same for the next SR; other settings, or damage, and it is anew."""
    srs = [data / "lr16_25_z2_asis", data / "lr16_25_multi_z2"]
    hr = copied(data / "lr16_25_z2", tmp_path, comm)

    def measured(sr, settings, keep=True):
        box = {"SR": [open_snapshot(sr, comm)], "HR": [open_snapshot(hr, comm)]}
        done = []
        results = suite.measure([box], settings, done.append, keep)
        return results, [step for step in done if step.startswith("HR")]

    settings = Settings.choose(25.0, 16**3)
    settings = replace(settings, nmin=8, parts=("power", "halos", "pictures"))
    assert "HR: halos" in measured(srs[0], settings)[1]
    results, steps = measured(srs[1], settings)
    assert steps == ["HR: mesh"]  # its phases alone
    fresh, steps = measured(srs[1], settings, keep=False)
    assert "HR: halos" in steps
    assert json.dumps(results.to_dict()["statistics"], default=str, sort_keys=True) == json.dumps(
        fresh.to_dict()["statistics"], default=str, sort_keys=True
    )
    assert "matching HR" in results["SR"] and results.notes == fresh.notes
    assert list(results.pictures) == list(fresh.pictures)
    for one, other in zip(results.pictures["HR"], fresh.pictures["HR"], strict=True):
        np.testing.assert_array_equal(one.count, other.count)
        np.testing.assert_array_equal(one.halo, other.halo)
    assert "HR: halos" in measured(srs[1], replace(settings, linking_length=0.19))[1]
    folders = (tmp_path / "lr16_25_z2.measured").iterdir()
    kept = min(folders, key=lambda one: one.stat().st_ctime)
    for name in ("arrays.npz", "results.json", "Site/000000"):
        damaged = sorted(kept.glob(name))[0]
        comm.barrier()
        if comm.rank == 0:
            content = bytearray(damaged.read_bytes())
            content[len(content) // 2] ^= 1
            damaged.write_bytes(content)
        comm.barrier()
        results, steps = measured(srs[1], settings)
        assert "HR: halos" in steps, name
        assert measured(srs[1], settings)[1] == ["HR: mesh"]


@pytest.mark.mpi
@pytest.mark.parametrize("quick", [True, False])
def test_some_parts_alone(comm, data, tmp_path, quick):
    """Of all that is measured, what was asked for; as it is with the rest."""
    sr, hr, out = data / "lr16_25_z2_asis", data / "lr16_25_z2", tmp_path / "report"
    argv = ["--sr", str(sr), "--hr", str(hr), "--out", str(out), "--quiet", "--fresh"]
    argv += ["--quick"] if quick else ["--only", "power,voids"]
    assert validate.main(argv, comm) == 0
    if comm.rank > 0:
        return
    document = json.loads((out / "report.json").read_text())
    figures = {one.stem for one in (out / "figures").glob("*.png")}
    names = set(document["statistics"]["SR"])
    if quick:
        assert "--quick" in document["command"]
        assert {"power", "multipoles", "halos", "structure", "matching HR"} <= names
        assert not {"pairs", "voids", "bispectrum angle", "quadrupoles", "bias"} & names
        assert {"power", "redshift_space", "halos", "halo_radii"} <= figures
        assert "pictures" not in figures and {"power", "monopole"} <= set(document["verdicts"])
        assert Settings.choose(12.5, 64**3, quick=True).Nmesh == 32
    else:
        assert "--only power,voids" in document["command"]
        assert names == {"power", "comparison", "voids", "void ratio"}
        assert figures == {"power", "voids"}
    with pytest.raises(InputError, match="validate in full"):
        from_reports([document], None)


def into_a_card(path, document, report):
    """What the report found comes to stand in the card of the model that made SR, of no other."""
    card = ModelCard.from_dict(document["catalogues"][0]["made"]["SRCard"])
    card = replace(card, evaluation={"by hand": 1})
    save_model(path, build(card, {}, path), card)
    evaluate.main([str(path), report], MPI.COMM_SELF)
    filled = read_card(path)
    ((name, found),) = filled.evaluation["validate"].items()
    assert filled.evaluation["by hand"] == 1 and len(found["boxes"]) == 1
    assert name.startswith("z = 2, LR cell 1.562 Mpc/h, Omega_m 0.28") and "phases" not in name
    power, low = document["verdicts"]["power"], 2 * np.pi / 1.5625
    band = [1 + one for k, one in zip(power["x"], power["deviation"]) if low <= k < 2 * low]
    assert worth(filled)["power"] == [pytest.approx(np.mean(band), abs=1e-3)]
    row = next(one for one in document["summary"] if "100 particles" in one["quantity"])
    assert worth(filled)["halos"][0] == pytest.approx(float(row["value"].split()[-1]), abs=0.2)
    for change in {"name": "another"}, {"training": {"steps": 1}}:
        save_model(path, build(card, {}, path), replace(card, **change))
        with pytest.raises(InputError, match="was made by"):
            evaluate.main([str(path), report], MPI.COMM_SELF)


def test_the_page(comm, data, tmp_path, capfd):
    """Two realisations with HR and LR: one self-contained page, every number in JSON."""
    srs = [interpolated(data, tmp_path, comm, seed) for seed in (1, 2)]
    out = tmp_path / "report"
    hr, lr = copied(data / "hr64_12p5_z2", tmp_path, comm), str(data / "lr8_12p5_z2")
    argv = ["--sr", *srs, "--hr", hr, "--lr", lr, "--out", str(out), "--mesh", "32", "--quiet"]
    argv += ["--kmax", "6", "--boxes", "3", "1.5"]
    limits = tmp_path / "limits.toml"
    if comm.rank == 0:
        limits.write_text("[power]\nwithin = 0.25\nto = 0.7\n[r50]\nwithin = 0.05\nto = 32\n")
    comm.barrier()
    assert validate.main([*argv, "--require", str(limits)], comm) == validate.BROKEN
    lines = [line for line in capfd.readouterr().err.splitlines() if "broken" in line]
    assert len(lines) == (comm.rank == 0) and all("Radius of 50 %" in line for line in lines)
    reports = [str(out / "report.json")] * 2
    assert validate.main(["--compare", *reports], comm) == 0
    table = capfd.readouterr().out
    if comm.rank > 0:
        return
    row = next(line for line in table.splitlines() if line.startswith("Power spectrum"))
    page = (out / "report.html").read_text()
    assert len(page) < 5e6 and page.index('id="verdict"') < page.index('id="summary"')
    assert 'src="http' not in page and "<link" not in page and "<script" not in page
    assert page.count("data:image/png;base64,") == page.count("<figcaption>") == 14
    document = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    assert document["settings"]["kmax"] == 6 and document["settings"]["zooms"] == [12.5, 3, 1.5]
    assert {"nbodykit_sr", "nbodykit", "pmesh", "numpy"} <= set(document["versions"])
    power = document["verdicts"]["power"]["reach"]
    assert row.count(power["0.1"]["text"]) == 2 and power["0.25"]["reach"] > 0.6
    assert document["verdicts"]["r50"]["worst"]["deviation"] > 0.3  # smeared
    assert document["command"].startswith("python -m nbodykit_sr validate --sr ")
    assert "--kmax 6 --boxes 3 1.5" in document["command"]
    first = document["catalogues"][0]
    assert first["kind"] == "SR" and first["made"]["SRSeed"] == "1"
    assert first["made"]["SRCard"]["network"] == "interpolate"
    assert max(document["statistics"]["SR"]["power"][0]["columns"]["k"]) < 6.3
    assert len(document["statistics"]["SR"]["jumps"]) == 2
    assert all(row["quantity"] and row["value"] for row in document["summary"])
    into_a_card(tmp_path / "model.safetensors", document, reports[0])
    for name in ("pictures", "power", "redshift_space", "halos", "bispectrum", "voids", "seams"):
        for kind in ("png", "pdf"):
            assert (out / "figures" / f"{name}.{kind}").stat().st_size > 1000


@pytest.mark.mpi
def test_catalogues_without_halos(comm, data, tmp_path):
    """What is measured of halos is left out, the rest is told."""
    out, low = tmp_path / "report", str(data / "lr8_12p5_z4")
    argv = ["--sr", low, "--hr", low, "--out", str(out), "--quiet", "--fresh", "--quick"]
    assert validate.main(argv, comm) == 0
    if comm.rank == 0:
        document = json.loads((out / "report.json").read_text())
        told = {row["quantity"]: row["value"] for row in document["summary"]}
        assert told["FOF halos of at least 32 particles in SR / in HR"] == "0 / 0"
        assert not any("partner" in quantity for quantity in told)


@pytest.mark.parametrize("lr", [True, False])
def test_what_is_missing_is_said(comm, data, tmp_path, lr):
    out = tmp_path / "report"
    argv = ["--sr", str(data / "hr64_12p5_z2"), "--out", str(out), "--mesh", "32", "--quiet"]
    argv += ["--only", "power,halos,seams"]
    argv += ["--lr", str(data / "lr8_12p5_z2")] if lr else []
    argv += ["--sigma8", "0.8256", "--ns", "0.971"] if lr else []
    assert validate.main(argv, comm) == 0
    if comm.rank > 0:
        return
    document = json.loads((out / "report.json").read_text())
    page = (out / "report.html").read_text()
    assert any("No HR reference" in note for note in document["notes"])
    assert any("chunk faces" in note for note in document["notes"])
    assert all(note.split("'")[0] in page for note in document["notes"])
    assert document["reference"] == ("LR" if lr else None)
    assert any("Theory is left out" in note for note in document["notes"]) != lr
    if lr:  # a small box has halos as theory expects, and no power
        (expected,) = document["statistics"].pop("theory").values()
        halos = document["statistics"]["SR"]["halos"][0]["columns"]["dn_dlogM"]
        small = slice(1, 5)
        ratio = np.array(halos[small]) / np.array(expected[0]["columns"]["watson13"][small])
        assert 0.6 < ratio.mean() < 1.6
    names = document["statistics"]["SR"]
    assert ("comparison" in names) == lr and "halo ratio" not in names
    if lr:  # LR is asked only where it knows
        k = names["comparison"][0]["columns"]["k"]
        assert max(k) <= document["lr_nyquist"] * (1 + 1e-6) + 2 * np.pi / 12.5 / 2


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sr", "hr64_12p5_z2", "--hr", "nothing_here"], "does not exist"),
        (["--sr", "hr64_12p5_z2", "--lr", "lr8_12p5_z4"], "redshift"),
        (["--sr", "hr64_12p5_z2", "--lr", "lr16_25_z2"], "BoxSize"),
        (["--sr", "hr64_12p5_z2", "--mesh", "33"], "mesh is 33"),
        (["--sr", "hr64_12p5_z2", "--kmax", "1000"], "kmax is 1000"),
        (["--sr", "hr64_12p5_z2", "--boxes", "20"], "boxes are"),
        (["--sr", "hr64_12p5_z2", "--mesh", "20000"], "free"),
        (["--sr", "hr64_12p5_z2", "--hr", "hr64_12p5_z2", "hr64_12p5_z2"], "one for each"),
        (["--hr", "hr64_12p5_z2"], "--sr is needed"),
        (["--sr", "hr64_12p5_z2", "--require", "limits.toml"], "cannot read the limits"),
        (["--compare", "report.json"], "no report.json"),
        (
            ["--sr", "hr64_12p5_z2", "--only", "power,colour"],
            "'colour': parts are pictures, power, ",
        ),
        (["--sr", "hr64_12p5_z2", "--colour", "red"], "unrecognized"),
    ],
)
def test_unusable_input_ends_with_one_line(comm, data, tmp_path, capfd, argv, message):
    argv = [str(data / one) if one[:2] in ("hr", "lr") or one[:2] == "no" else one for one in argv]
    with pytest.raises(SystemExit) as status:
        enter(validate.main, "validate", comm, [*argv, "--out", str(tmp_path / "out"), "--quiet"])
    assert status.value.code == 2
    text = capfd.readouterr().err
    if comm.rank == 0:
        lines = [
            line for line in text.splitlines() if line.startswith("nbodykit-sr validate: error: ")
        ]
        assert len(lines) == 1 and message in lines[0]


@pytest.mark.mpi
def test_boxes_with_their_own_references_and_no_velocity(comm, data):
    """Each SR is compared with the HR of its place; positions alone will do."""
    names = "lr16_25_z2", "lr16_25_corner_z4"
    references = [open_snapshot(data / name, comm) for name in names]
    references[1].attrs.update(Redshift=2.0, Time=1 / 3)  # as if of one time
    positions = [
        ArrayCatalog({"Position": one["Position"], "ID": one["ID"]}, comm=comm, **one.attrs)
        for one in references
    ]
    boxes = [{"SR": [one], "HR": [other]} for one, other in zip(positions, references)]
    suite.check(boxes)
    taken = []
    results = suite.measure(boxes, Settings.choose(25.0, 16**3), taken.append)
    assert len(taken) == suite.steps(boxes, results.settings)
    for one in results["SR"]["comparison"]:
        np.testing.assert_allclose(one["correlation"], 1)
        np.testing.assert_allclose(one["ratio"], 1)
    first, second = (one["power"] for one in results["SR"]["power"])
    assert not np.allclose(first, second)
    assert "multipoles" in results["HR"] and "multipoles" not in results["SR"]
    assert any("SR has no Velocity" in note for note in results.notes)
    assert list(results.pictures) == ["HR", "SR"]


def test_a_region_is_refused(comm, data):
    catalog = open_snapshot(data / "lr8_12p5_z2", comm)
    catalog.attrs["SRRegion"] = "[[0.0, 5.0], [0.0, 5.0], [0.0, 5.0]]"
    with pytest.raises(InputError, match="region"):
        suite.check([{"SR": [catalog]}])


def test_the_papers_settings_where_the_box_holds_them():
    paper = Settings.choose(100.0, 512**3)
    assert (paper.Nmesh, paper.radius, paper.k1, paper.k2) == (512, 10.0, 0.15, 0.25)
    assert paper.kmax == pytest.approx(np.pi * 512 / 100)
    assert paper.zooms == (100.0, 25.0, 6.25)
    small = Settings.choose(12.5, 64**3)
    fundamental = 2 * np.pi / 12.5
    assert small.radius < 2 and small.k1 > 2 * fundamental


@pytest.mark.mpi
def test_pictures_hold_the_particles_of_their_slab(comm, data):
    catalog = open_snapshot(data / "hr64_12p5_z2", comm)
    halos = find_halos(catalog)
    windows = [(12.5, 12.5), (1.0, 1.0)]
    centre = halo_table(halos, catalog)["centre"][0]
    whole, zoom = pictures(catalog, halos, centre, windows, pixels=64)
    assert whole.count.sum() == pytest.approx(64**3)
    assert whole.halo.sum() == pytest.approx(halos.length.sum())
    assert whole.mean == pytest.approx(64**3 / 64**2)
    density, share = whole.smoothed()
    assert density.mean() == pytest.approx(1, abs=0.1)
    assert share.min() >= 0 and share.max() <= 1

    density, share = zoom.smoothed()
    assert density.shape == (64, 64)
    middle = density[24:40, 24:40].mean()
    assert middle > 30 and middle > 3 * density[[0, -1]].mean()
    assert share[24:40, 24:40].mean() > 0.8


def test_both_maps_are_as_light():
    """Hue says halo or not; lightness, to any eye, says density."""
    lightness = []
    for name in ("matter", "halos"):
        colours = shades(name)(np.linspace(0, 1, 64))[:, :3]
        linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
        lightness.append(116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16)  # CIELAB's
    assert np.all(np.diff(lightness) > 0)
    np.testing.assert_allclose(*lightness, atol=10)
