"""A model version's card with what was found out since it was registered, as Markdown and as a page. Pure."""

from html import escape

from markdown_it import MarkdownIt

from aios.cli.output import figure, size
from aios.data.v1 import model_pb2
from aios.trainer.v1 import run_pb2

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 52em; margin: 2em auto; padding: 0 1em; color: #1b1f24 }
table { border-collapse: collapse; margin: .6em 0 } td, th { padding: .25em .8em; border-bottom: 1px solid #d8dee4;
text-align: left } th:empty { display: none } code { background: #f3f4f6; padding: .1em .3em } h1 { font-size: 1.6em }
@media (prefers-color-scheme: dark) { body { background: #14181d; color: #e6e9ec } code { background: #232a31 }
td, th { border-color: #39424c } }
"""


def whole(version: model_pb2.ModelVersion, assessed: run_pb2.Run | None) -> str:
    """Markdown: the stored card, the files, and the newest assessment where there is one."""
    text = version.card.rstrip() or f"# {version.name}\n\nNobody has written a card for this version."
    parts = [text]
    if version.rejected:
        parts.append(f"**Rejected:** {version.rejected}")
    if version.metrics and "## Evaluation" not in text:
        parts.append("## Metrics\n\n" + _table("metric", sorted(version.metrics.items())))
    parts.append(
        f"## Files\n\n{size(version.size_bytes)} in {len(version.files)} files, of `{version.run or version.creator}`:\n\n"
        + "\n".join(f"- `{file.path}`, SHA-256 `{file.sha256}`" for file in version.files)
    )
    if assessed is not None:
        parts.append(
            f"## Assessment\n\nBy `{assessed.name}` on `{assessed.spec.dataset}`; its report is among that run's outputs."
            f"\n\n{_table('figure', sorted(assessed.metrics.items()))}"
        )
    return "\n\n".join(parts) + "\n"


def page(title: str, text: str) -> str:
    """One HTML file. What the card has of HTML itself is shown as text."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style><body>{body}</body></html>\n"
    )


def _table(what: str, rows: list[tuple[str, float]]) -> str:
    lines = [
        f"| {what} | value |",
        "| --- | --- |",
        *(f"| {name} | {figure(value)} |" for name, value in rows),
    ]
    return "\n".join(lines)
