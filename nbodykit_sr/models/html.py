"""Tables for notebooks."""

from html import escape


def html_table(title, rows) -> str:
    """A title and a table of names and values, as HTML.

    Parameters
    ----------
    title : str
    rows : dict of str to str
        Empty values are left out.
    """
    lines = (
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
        if value
    )
    return f"<div><b>{escape(title)}</b><table>{''.join(lines)}</table></div>"
