"""How an output was made, in its attributes and back."""

import numpy as np
import pytest

from nbodykit_sr.errors import InputError
from nbodykit_sr.provenance import NAMES, Provenance, versions

MADE = Provenance(
    layout="nbodykit",
    seed=str(2**64 - 1),
    model="m",
    card={"name": "m", "redshift": [0.0, 2.0]},
    factor=8,
    chunk=4,
    offset=-3.5,
    region=(),
    versions=versions(),
)


@pytest.mark.parametrize("region", [(), [[0.0, 5.0], [0.0, 5.0], [-1.0, 2.5]]])
def test_there_and_back(region):
    """As attributes, and as bigfile gives them back: numbers as arrays."""
    made = Provenance(**{**vars(MADE), "region": region})
    attrs = made.to_attrs()
    assert set(attrs) == {NAMES[name] for name, value in vars(made).items() if value is not None}
    assert Provenance.from_attrs({**attrs, "BoxSize": [25.0] * 3, "SRElse": 1}) == made
    stored = {n: v if isinstance(v, str) else np.array([v]) for n, v in attrs.items()}
    assert Provenance.from_attrs(stored) == made


def test_every_field_has_a_name():
    assert list(NAMES) == list(Provenance.__dataclass_fields__)
    assert Provenance.from_attrs({}) == Provenance() and Provenance().to_attrs() == {}


@pytest.mark.parametrize(
    "attrs",
    [{"SRCard": "{"}, {"SRChunk": "four"}, {"SRFactor": []}, {"SROffset": None}, {"SRRegion": 5}],
)
def test_nonsense_is_named(attrs):
    with pytest.raises(InputError, match=f"{next(iter(attrs))} is .* makes no sense"):
        Provenance.from_attrs(attrs)
