"""A model card in short: what `validate` measured of the model on held-out boxes, and tables of it."""

from html import escape

import numpy as np

# Entries of a card's evaluation: what reports found, by redshift, and the largest change of P(k) that
# bfloat16 makes, by redshift
REPORTS, BFLOAT16 = "validate", "bfloat16"

# By how much bfloat16 may change P(k) where it is chosen without being asked for
SMALL_CHANGE = 1e-3


def worth(card) -> dict[str, list[float]]:
    """Accuracy of a displacement model in each report in its card, at its own factor.

    Returns
    -------
    dict of str to list of float
        "power": P / P_HR, mean over 2 to 4 Nyquist wavenumbers of LR; "correlation": r with HR, mean
        over 1 to 2 of them; "own phases": that correlation for catalogues made with HR's phases, whose
        other numbers are left out; "halos": number of at least 100 particles over HR's. Empty lists
        where nothing was measured.
    """
    found: dict[str, list] = {"power": [], "correlation": [], "own phases": [], "halos": []}
    for report in card.evaluation.get(REPORTS, {}).values():
        if report.get("factor", card.factor) != card.factor:
            continue
        nyquist = np.pi * np.cbrt(report["particles"]) / card.factor / report["BoxSize"]
        correlation = _mean(report["verdicts"]["correlation"], nyquist, 2 * nyquist)
        if report.get("phases") == "HR's":
            found["own phases"].append(correlation)
            continue
        found["correlation"].append(correlation)
        found["power"].append(_mean(report["verdicts"]["power"], 2 * nyquist, 4 * nyquist))
        found["halos"].append(report["halos over HR's"].get("100", np.nan))
    return found


def bfloat16_change(card) -> float | None:
    """The largest relative change of P(k) that bfloat16 was measured to make; None if it was not."""
    return max(card.evaluation.get(BFLOAT16, {}).values(), default=None)


def card_rows(card) -> dict[str, str]:
    """Purpose, origin and accuracy of a model: a dict of short texts."""
    change = bfloat16_change(card)
    return {
        "for": card.validity,
        "network": f"{card.network}, factor {card.factor}, channels: {card.channels}",
        "trained on": card.simulation,
        "licence": card.licence,
        **summary(card),
        "P in bfloat16": f"that in float32 within {change:.2g}" if change else "",
        "caution": card.caution.removeprefix("Caution: "),
    }


def summary(card) -> dict[str, str]:
    """Accuracy of a model in a few numbers: a dict of quantity to text, empty if not measured."""
    if card.network == "density":
        return _density(card.evaluation)
    names = {
        "power": "P / P_HR, 2-4 k_Ny of LR",
        "correlation": "r with HR, 1-2 k_Ny of LR",
        "own phases": "the same with HR's phases",
        "halos": "halos >= 100 particles / HR's",
    }
    return {names[name]: _span(values) for name, values in worth(card).items() if values}


def html_table(title, rows) -> str:
    """A title and a table of names and values for notebooks, as HTML; empty values are left out."""
    lines = (
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
        if value
    )
    return f"<div><b>{escape(title)}</b><table>{''.join(lines)}</table></div>"


def _density(evaluation):
    found = [box for box in evaluation.values() if isinstance(box, dict) and "correlation" in box]
    if not found:
        return {}
    worst = found[-1]["transfer, largest deviation from 1 to k = 0.80"]["SR"]
    cross = found[-1]["correlation"][evaluation["k"].index(0.8)]
    return {
        "transfer function, k < 0.8 h/Mpc": f"within {worst:.1%} of 1",
        "r with HR, k = 0.8 h/Mpc": f"{cross:.2f}",
    }


def _mean(verdict, low, high):
    """Mean of a ratio to HR over low <= x < high; NaN where that was not measured."""
    x, deviation = np.array(verdict["x"]), np.array(verdict["deviation"])
    inside = (x >= low) & (x < high)
    return 1 + float(deviation[inside].mean()) if inside.any() else np.nan


def _span(values):
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
