"""A report as one HTML file, without a library or a script: what every report begins with. Plots are the reports' own."""

from collections.abc import Callable, Sequence
from html import escape

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:62em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child{text-align:left}text{font:11px system-ui,sans-serif}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:1.6em}"""


def page(title: str, *parts: str, style: str = "") -> str:
    """A whole file.

    Args:
        parts: HTML.
        style: More rules, after those of every report.
    """
    body = "\n".join(parts)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{STYLE}{style}</style><h1>{escape(title)}</h1>\n{body}\n</html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]], text: Callable[[object], str] = str) -> str:
    """Rows of cells, each as `text` says it."""
    lines = ["<tr>" + "".join(f"<th>{escape(each)}" for each in head)]
    lines += ["<tr>" + "".join(f"<td>{escape(text(cell))}" for cell in row) for row in rows]
    return "<table>" + "\n".join(lines) + "</table>"
