"""The verdict for people: one HTML file with its plots, a card for the registry, lines for the log."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from services.trainer.job import plots
from services.trainer.optimize import attack
from services.trainer.optimize.pipeline import Variant
from services.trainer.optimize.serving import WHERE
from services.trainer.optimize.verdict import Side, Verdict

REPORT_FILE, VERDICT_FILE = "report.html", "verdict.json"
Rows = list[tuple[str, ...]]


def rows(verdict: Verdict) -> Rows:
    """What, before, after."""
    original, variant = verdict.original, verdict.variant
    before, after = verdict.served["original"], verdict.served["variant"]
    lines: Rows = [
        ("accuracy", _accuracy(original), _accuracy(variant)),
        ("calibration error", f"{original.calibration_error:.4f}", f"{variant.calibration_error:.4f}"),
        ("agreement with the original", "", f"{verdict.agreement:.2%}"),
        ("bytes", f"{original.size.bytes:,}", f"{variant.size.bytes:,} ({1 / verdict.smaller:.3f}x)"),
        ("parameters", *_count(original.size.parameters, variant.size.parameters)),
        ("of them not zero", *_count(original.size.nonzero, variant.size.nonzero)),
        ("multiply-accumulates", *_count(original.size.macs, variant.size.macs)),
        (
            "peak memory of the model's process, MiB",
            f"{before.memory_bytes / 2**20:.0f}",
            f"{after.memory_bytes / 2**20:.0f}",
        ),
    ]
    if verdict.tuned is not None:
        lines.insert(1, ("accuracy of the original trained as long", _accuracy(verdict.tuned), ""))
    lines += [
        (f"accuracy under attack, PGD-{attack.STEPS} within {name}", f"{old:.2%}", f"{new:.2%}")
        for name, (old, new) in verdict.attacked.items()
    ]
    for batch in after.batches:
        old, new = before.batches[batch], after.batches[batch]
        for key, name in (("p50_ms", "p50"), ("p95_ms", "p95"), ("p99_ms", "p99")):
            told = f"{new[key]:.2f}"
            if key == "p50_ms":
                told += f" ({verdict.times_as_long(batch):.2f}x)"
            lines.append((f"batch {batch}: {name}, ms", f"{old[key]:.2f}", told))
        for key, name in (
            ("predictions_per_second", "predictions a second"),
            ("cpu_seconds_per_1000", "CPU seconds per 1,000 predictions"),
        ):
            lines.append((f"batch {batch}: {name}", f"{old[key]:.4g}", f"{new[key]:.4g}"))
    return lines


def said(verdict: Verdict) -> str:
    """PASS or FAIL in a line."""
    return "PASS: every limit is kept" if verdict.passed else "FAIL: it " + "; it ".join(verdict.missed)


def html(
    title: str,
    variant: Variant,
    verdict: Verdict,
    tried: Sequence[Mapping[str, Any]] = (),
    curve: Sequence[Mapping[str, float]] = (),
) -> str:
    """The report."""
    change = [
        (name, float(old), float(new), float(new - old))
        for name, old, new in zip(
            _classes(variant, verdict), verdict.original.recall_C, verdict.variant.recall_C, strict=True
        )
    ]
    batches = np.array(sorted(verdict.served["variant"].batches))
    speed = [
        (name, batches, np.array([served.batches[int(batch)]["predictions_per_second"] for batch in batches]))
        for name, served in verdict.served.items()
    ]
    recipe = {
        "steps": variant.steps,
        "limits": dict(verdict.limits),
        "calibration_sha256": variant.calibration,
    }
    parts = [
        f"<p><b>{escape(said(verdict))}</b></p><p>{escape(variant.words)}</p>",
        plots.table(["", "original", "variant"], rows(verdict)),
        _measured(verdict),
        plots.lines("Throughput", "batch", "predictions a second", speed),
        "<h2>Per class</h2>",
        plots.table(["class", "recall before", "after", "change"], change),
        *(_curve(curve) if curve else ()),
        *(_search(tried) if tried else ()),
        "<h2>Recipe</h2>",
        f"<pre>{escape(json.dumps(recipe, indent=1))}</pre>",
    ]
    return plots.page(title, *parts)


def card(base: str, dataset: str, variant: Variant, verdict: Verdict) -> str:
    """The version's card, in Markdown."""
    lines = [
        f"# {variant.words}",
        "",
        f"Made of `{base}`, judged on `{dataset}`. **{said(verdict)}.**",
        "",
        "| | original | variant |",
        "|---|---|---|",
        *(f"| {what} | {before} | {after} |" for what, before, after in rows(verdict)),
        "",
        f"Measured through {WHERE}.",
        "",
        "```json",
        json.dumps({"steps": variant.steps, "calibration_sha256": variant.calibration}, indent=1),
        "```",
    ]
    return "\n".join(lines)


def log(verdict: Verdict) -> str:
    """The table as text."""
    told = rows(verdict)
    widths = [max(len(row[column]) for row in told) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in told]
    return "\n".join([*lines, said(verdict)])


def _measured(verdict: Verdict) -> str:
    return (
        f"<p>Latency: {escape(WHERE)}; times as long are medians over rounds that followed each other. Answers through "
        f"Triton differ from those of ONNX Runtime here by at most {verdict.numerics:.2g}.</p>"
    )


def _curve(points: Sequence[Mapping[str, float]]) -> list[str]:
    x, y = (np.array([each[key] for each in points]) for key in ("times_as_long", "accuracy"))
    keys = ("threshold", "accuracy", "times_as_long", "p50_ms")
    return [
        "<h2>Accuracy over latency</h2>",
        "<p>The same model at other thresholds: from its first stage alone to all of it for every sample.</p>",
        plots.lines("Accuracy over latency", "times the original's latency", "accuracy", [("", x, y)]),
        plots.table(
            ["threshold", "accuracy", "times as long", "p50, ms"],
            [tuple(float(each[key]) for key in keys) for each in points],
        ),
    ]


def _search(tried: Sequence[Mapping[str, Any]]) -> list[str]:
    x = np.array([each["bytes_share"] for each in tried])
    y = np.array([each["points_lost"] for each in tried])
    group = np.array([0 if each["front"] else -1 for each in tried])
    told = [
        (
            each["words"],
            float(each["points_lost"]),
            float(1 / each["bytes_share"]),
            float(each["times_as_long"]),
            "yes" if each["front"] else "",
        )
        for each in tried
    ]
    return [
        "<h2>Search</h2>",
        "<p>Coloured: nothing that was tried is as good in all three and better in one. Points: validation part.</p>",
        plots.points("Loss over size", "bytes, share of the original's", "points lost", x, y, group),
        plots.table(["variant", "points lost", "times smaller", "times as long", "front"], told),
    ]


def _classes(variant: Variant, verdict: Verdict) -> list[str]:
    known = list(variant.signature.labels)
    return known or [str(index) for index in range(len(verdict.variant.recall_C))]


def _accuracy(side: Side) -> str:
    return f"{side.accuracy.value:.2%} [{side.accuracy.low:.2%}, {side.accuracy.high:.2%}]"


def _count(before: int, after: int) -> tuple[str, str]:
    return f"{before:,}", f"{after:,} ({after / max(1, before):.3f}x)"
