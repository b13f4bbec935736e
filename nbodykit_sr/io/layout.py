"""Headers of the two output layouts: nbodykit's and MP-Gadget's."""

from dataclasses import replace

import numpy as np

from ..provenance import NAMES, Provenance
from ..universe import Universe


def header(layout, sr, source, command, size, selection):
    """Attributes of the Header block of an SR catalogue.

    Parameters
    ----------
    layout : {"nbodykit", "mp-gadget"}
    sr : SRCatalog
    source : SnapshotCatalog
        What it was made from: an MP-Gadget header carries over whatever stays true.
    command : str
        The command that makes it again.
    size : int
        Particles that are written.
    selection : Selection
        Which they are.

    Returns
    -------
    dict
    """
    attrs = {name: _plain(value) for name, value in sr.attrs.items() if value is not None}
    provenance = replace(
        Provenance.from_attrs(sr.attrs),
        command=command,
        layout=layout,
        input=source.header.identity,
        columns=None if selection.columns == sr.names else ",".join(selection.columns),
        subsample=None if selection.subsample == 1 else selection.subsample,
    )
    made = {name: _plain(value) for name, value in provenance.to_attrs().items()}
    if layout == "mp-gadget":
        attrs = mpgadget_header(sr.attrs, size, source.header.raw)
    return {**attrs, **made}


def _plain(value):
    return value if isinstance(value, str) else np.asarray(value)


def mpgadget_header(attrs, size, raw):
    """A Header in MP-Gadget's units and types; every number an array.

    Parameters
    ----------
    attrs : dict
        Of a catalogue: box, time, cosmology, ParticleMass [1e10 Msun/h].
    size : int
        Its particles.
    raw : dict
        A header, of which is kept whatever the catalogue does not say otherwise.

    Returns
    -------
    dict
    """
    header = {
        name: value if isinstance(value, str) else np.ravel(value)
        for name, value in raw.items()
        if name not in NAMES.values()
    }
    counts = np.array([0, size, 0, 0, 0, 0], dtype="u8")
    masses = np.zeros(6)
    masses[1] = attrs.get("ParticleMass", 0.0)
    universe = Universe.of(attrs, "BoxSize", "a", "Omega0", "OmegaLambda", "OmegaBaryon", "h")
    a = universe.a
    header.update(
        BoxSize=np.array([universe.BoxSize * 1000]),
        Time=np.array([a]),
        TimeIC=np.ravel(raw.get("TimeIC", [a])),
        TotNumPart=counts,
        TotNumPartInit=counts,
        MassTable=masses,
        Omega0=np.array([universe.Omega0]),
        OmegaLambda=np.array([universe.OmegaLambda]),
        OmegaBaryon=np.array([universe.OmegaBaryon]),
        HubbleParam=np.array([universe.h]),
        UnitLength_in_cm=np.array([3.085678e21]),
        UnitMass_in_g=np.array([1.989e43]),
        UnitVelocity_in_cm_per_s=np.array([1e5]),
        UsePeculiarVelocity=np.array([1], dtype="i4"),
    )
    # MP-Gadget's own knows of radiation, but is that of the file's velocity convention
    if "RSDFactor" not in header or not np.ravel(raw.get("UsePeculiarVelocity", 0))[0]:
        header["RSDFactor"] = np.array([1 / (a * universe.hubble) * 1000])
    return header
