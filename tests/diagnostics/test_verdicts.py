"""Verdicts: how far a catalogue can be trusted, in numbers that gate."""

import numpy as np
import pytest

from nbodykit_sr.diagnostics.registry import criteria
from nbodykit_sr.diagnostics.results import Results, Settings
from nbodykit_sr.diagnostics.statistic import Statistic
from nbodykit_sr.diagnostics.verdicts import Verdict, broken, read_limits, side_by_side, verdicts
from nbodykit_sr.errors import InputError


def verdict(x, deviation, error, name="power"):
    arrays = (np.array(one, dtype=float) for one in (x, deviation, error))
    return Verdict(criteria()[name], *arrays)


POWER = verdict([1, 2, 4, 8], [0.01, -0.04, 0.09, -0.3], [0.01, 0.02, 0.02, 0.01])
HALOS = verdict([1000, 300, 100, 32], [0.4, 0.02, -0.08, -0.5], [0.3, 0.05, 0.03, 0.02], "halos")


@pytest.mark.parametrize(
    ("one", "within", "reach", "short", "long"),
    [
        (POWER, 0.1, 4, 2, 4),
        (POWER, 0.05, 2, 1, 2),
        (POWER, 0.5, 8, 8, 8),
        (HALOS, 0.1, 100, 300, 100),  # the bin at 1000 cannot tell
        (HALOS, 0.3, np.nan, np.nan, 100),  # it can, and is outside by a third of its error
    ],
)
def test_reach_and_its_interval(one, within, reach, short, long):
    found = [one.reach(within, sigmas) for sigmas in (0, 1, -1)]
    np.testing.assert_array_equal(found, [reach, short, long])


def test_in_words():
    assert POWER.text(0.1) == "to k = 4 h/Mpc (2 … 4)"
    assert POWER.worst_text() == "-30 ± 1 % at k = 8 h/Mpc"
    assert HALOS.text(0.1) == "down to 100 particles (300 … 100)"
    assert verdict([1], [0.5], [0.01]).text(0.1) == "nowhere"
    assert HALOS.text(0.3) == "nowhere (at best down to 100 particles)"
    assert verdict([1], [0.5], [0.6]).text(0.1) == "too few to tell"


def test_limits_are_kept_or_broken(tmp_path):
    def lines(text):
        path = tmp_path / "limits.toml"
        path.write_text(text)
        return broken({"power": POWER, "halos": HALOS}, read_limits(path))

    assert lines("[power]\nwithin = 0.1\nto = 4\n[halos]\nwithin = 0.1\nto = 100\n") == []
    assert "found to k = 4" in lines("[power]\nwithin = 0.1\nto = 8")[0]
    assert "measured to k = 8" in lines("[power]\nwithin = 0.5\nto = 20")[0]
    assert "too few" in lines("[halos]\nwithin = 0.1\nto = 900")[0]
    assert "found down to 100" in lines("[halos]\nwithin = 0.1\nto = 32")[0]
    assert len(lines("[power]\nwithin = 0.01\nto = 8\n[halos]\nwithin = 0.2\nto = 32")) == 2
    for text, message in (
        ("[colour]\nwithin = 0.1\nto = 1", "colour"),
        ("[power]\nwithin = 0.1", "positive numbers"),
        ("[power]\nwithin = -1\nto = 2", "positive numbers"),
        ("[power]\nwithin = 0.1\nto = 1\nfrom = 2", "positive numbers"),
        ("power = 3", "positive numbers"),
        ("[power", "cannot read"),
        ("[r50]\nwithin = 0.1\nto = 100", "not measured"),
    ):
        with pytest.raises(InputError, match=message):
            lines(text)


def comparison(ratio, box):
    k = np.array([1.0, 2.0, 4.0])
    columns = {"k": k, "ratio": np.array(ratio)}
    return Statistic("comparison", columns, {}, {"ratio": np.full(3, 0.02)}), box


def measured(*many):
    results = Results(Settings.choose(25.0, 64**3))
    results.reference = "HR"
    for one, box in many:
        results.add("SR", "comparison", one, box)
    return verdicts(results)["power"]


def test_errors_come_from_independent_boxes_where_there_are_several():
    alone = measured(comparison([1, 1.1, 1.2], 0), comparison([1, 1.3, 1.2], 0))
    np.testing.assert_allclose(alone.deviation, [0, 0.2, 0.2])
    np.testing.assert_allclose(alone.error, [0.02, 0.2 / 2**0.5, 0.02])  # or the realisations'
    boxes = measured(comparison([1, 1.1, 1.2], 0), comparison([1, 1.3, 1.2], 1))
    np.testing.assert_allclose(boxes.deviation, [0, 0.2, 0.2])
    np.testing.assert_allclose(boxes.error, [0, 0.1, 0], atol=1e-12)


def test_reports_side_by_side():
    documents = [
        {"verdicts": {"power": POWER.to_dict(), "halos": HALOS.to_dict()}},
        {"verdicts": {"power": verdict([1, 2], [0, 0.3], [0, 0]).to_dict()}},
    ]
    rows = side_by_side(documents)
    table = {row[0]: row[1:] for row in rows[: len(rows) // 2]}
    assert table["Power spectrum"] == ("to k = 4 h/Mpc (2 … 4)", "to k = 1 h/Mpc")
    assert table["Number of halos"][1] == "–"
    assert rows[-2][2] == "+30 ± 0 % at k = 2 h/Mpc"
