"""Single numbers of a report: the answer in a table, beside the verdicts."""

import numpy as np

OCTAVES = ((0.5, 1), (1, 2), (2, 4), (4, 8))  # of k [h/Mpc] in which power is held against theory's


def summary(results) -> list[dict]:
    """What has no scale: a list of dicts with quantity, value and orientation.

    With several realisations a value is their mean and standard deviation.
    """
    rows = []
    _summarise_phases(rows, results)
    _summarise_halos(rows, results)
    sr, hr = results["SR"], results.statistics.get("HR", {})
    if hr and "pdf" in sr:
        variance = [one.attrs["variance"] for one in sr["pdf"]]
        reference = _references(results, "pdf", lambda one: one.attrs["variance"])
        _row(
            rows,
            f"Variance of density in spheres of {results.settings.radius:g} Mpc/h, SR/HR",
            _over(variance, reference),
        )
    _row(
        rows,
        "Voids in SR" + (" / in HR" if hr else ""),
        [one.attrs["total"] for one in sr["voids"]],
        digits=0,
        against=_references(results, "voids", lambda one: one.attrs["total"]),
    )
    for kind in ("HR", "SR"):
        shares = [one.attrs["matched"] for one in sr.get(f"matching {kind}", ())]
        if shares and None not in shares:  # None of a catalogue without halos
            _row(
                rows,
                f"Share of {kind}'s halos with a partner in {'SR' if kind == 'HR' else 'another SR'}",
                shares,
                "" if kind == "HR" else "The noise floor: no more can be asked of SR and HR",
            )
    _summarise_theory(rows, results)
    _summarise_seams(rows, results)
    return rows


def _summarise_phases(rows, results):
    """Where phases are lost."""
    if "comparison" not in results["SR"]:
        return
    many = results["SR"]["comparison"]
    below = [_first(one["k"], one["correlation"] < 0.5) for one in many]
    if np.isfinite(below).all():
        _row(
            rows,
            f"k where SR and {results.reference} decorrelate (r = 0.5) [h/Mpc]",
            below,
            "Beyond the LR Nyquist wavenumber phases are invented: r must fall",
        )


def _summarise_halos(rows, results):
    """Numbers of halos above some particle counts."""
    for least in sorted({results.settings.nmin, 100, 1000}):
        if least < results.settings.nmin:
            continue

        def number(one, least=least):
            return one.attrs["at_least"][str(least)]

        against = _references(results, "halos", number)
        _row(
            rows,
            f"FOF halos of at least {least} particles in SR" + (" / in HR" if against else ""),
            [number(one) for one in results["SR"]["halos"]],
            digits=0,
            against=against,
        )


def _summarise_theory(rows, results):
    """Power and numbers of halos over what theory expects, of every kind."""
    theory = results.statistics.get("theory", {})
    for one in theory.get("power", []):
        for low, high in OCTAVES:
            inside = (one["k"] >= low) & (one["k"] < high)
            if high > one["k"][-1] or not inside.any():
                continue
            shares = {
                kind: np.mean(many["power"][inside] / one["power"][inside])
                for kind, many in results.items("power")
                if kind != "LR" or high <= results.lr_nyquist
            }
            _shares(rows, f"P over halofit's, k = {low:g}-{high:g} h/Mpc", shares)
    for one in theory.get("halos", []):
        told = np.isfinite(one["watson13"])
        shares = {}
        for kind, many in results.items("halos"):
            known = told & np.isfinite(many["dn_dlogM"])
            if known.any():
                shares[kind] = many["dn_dlogM"][known].sum() / one["watson13"][known].sum()
        _shares(rows, "FOF halos over those of Watson et al. 2013", shares)


def _shares(rows, quantity, shares):
    value = ", ".join(f"{kind} {share:.2f}" for kind, share in shares.items())
    if value:
        orientation = "One box scatters about the mean that theory tells"
        rows.append({"quantity": quantity, "value": value, "orientation": orientation})


def _summarise_seams(rows, results):
    """Of the first SR catalogue, with HR at the same places as a control."""
    found = []
    for kind in ("SR", "HR"):
        for one in results.statistics.get(kind, {}).get("jumps", [])[:1]:
            if np.isfinite(one.attrs["excess"]):
                excess, error = (100 * one.attrs[key] for key in ("excess", "excess_error"))
                found.append(f"{kind} {excess:+.1f} ± {error:.1f} %")
    if found:
        rows.append(
            {
                "quantity": "Displacement jumps at chunk faces, excess over interior ones",
                "value": ", ".join(found),
                "orientation": "0 within the error: no seams",
            }
        )


def _row(rows, quantity, values, orientation="", digits=3, against=None):
    """One line: mean and, with several, scatter."""
    value = _number(values, digits)
    if against is not None:
        value += f" / {_number(list(dict.fromkeys(against)), digits)}"
        if min(against) > 0:
            value += f" = {_number(_over(values, against), 3)}"
    rows.append({"quantity": quantity, "value": value, "orientation": orientation})


def _number(values, digits):
    """A number, or mean ± standard deviation of several."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    digits = max(digits, 1)
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def _references(results, name, number):
    """A number of HR for each SR catalogue, of its own box; None without HR."""
    many = [results.reference_of(name, one) for one in results["SR"][name]]
    return None if None in many else [number(one) for one in many]


def _over(values, reference):
    """Each value over its own reference."""
    return [one / other for one, other in zip(values, reference, strict=True)]


def _first(x, where):
    """The first x where something holds; NaN if nowhere."""
    return float(x[where][0]) if where.any() else np.nan
