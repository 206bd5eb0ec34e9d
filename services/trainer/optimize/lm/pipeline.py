"""The steps of a plan on a language model, and its verdict, as the recipe `optimize` runs them."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from aios.common.v1 import tensor_pb2
from aios.train import Run
from services.trainer.job import plots
from services.trainer.job.evaluate import Figure
from services.trainer.optimization import TECHNIQUES, Form, words
from services.trainer.optimize.lm import models, texts, verdict
from services.trainer.optimize.lm.texts import Texts
from services.trainer.optimize.lm.verdict import Side, Verdict
from services.trainer.optimize.report import REPORT_FILE, VERDICT_FILE
from services.trainer.optimize.task import NotOptimizable

Steps = Sequence[Mapping[str, Mapping[str, Any]]]
Rows = list[tuple[str, ...]]


def optimize(run: Run, original: Path, signature: tensor_pb2.Signature) -> None:
    """Make the variant, measure it, judge it, hand it over.

    Raises:
        NotOptimizable: the plan is not one for language models.
    """
    plan = run.hparams
    if "search" in plan:
        raise NotOptimizable("A search is for classifiers: say `steps` for a language model.")
    with run.phase("load"):
        given = texts.load(
            original,
            run.files(),
            run.seed,
            block=plan["block_tokens"],
            blocks=plan["test_blocks"],
            prompts=verdict.PROMPTS,
        )
    with run.phase("optimise"):
        chosen = make(original, plan["steps"], given, run.folder("variant"))
        trained = [step for step in plan["steps"] if "lora" in step]
        tuned = make(original, trained, given, run.folder("tuned")) if trained else None
    with run.phase("measure"):
        sides = [Side.of(folder, given) if folder else None for folder in (original, chosen, tuned)]
        served = verdict.measure(
            {"original": original, "variant": chosen}, given.prompts, threads=plan["threads"]
        )
    assert sides[0] is not None
    assert sides[1] is not None
    found = verdict.judge(sides[0], sides[1], sides[2], served, plan["limits"])
    _hand_over(run, chosen, signature, found, given)


def make(original: Path, steps: Steps, given: Texts, folder: Path) -> Path:
    """Take the steps. What they say is printed.

    Raises:
        NotOptimizable: a step cannot take this model.
    """
    model = models.read(original)
    for step in steps:
        ((name, settings),) = step.items()
        if TECHNIQUES[name].form is not Form.LANGUAGE:
            raise NotOptimizable(f"{name} is for classifiers; language models take {_names()}.")
        print(f"  {words([step])}", flush=True)
        import_module(f"services.trainer.optimize.lm.{name}").apply(model, given, settings)
    model.write(folder)
    return folder


def rows(found: Verdict) -> Rows:
    """What, before, after."""
    original, variant = found.original, found.variant
    before, after = found.served["original"], found.served["variant"]
    memory = [f"{each.memory_bytes / 2**20:.0f}" for each in (before, after)]
    lines: Rows = [
        ("perplexity", _interval(original.perplexity), _interval(variant.perplexity)),
        ("perplexity over the original's", "", _interval(found.ratio)),
        ("bytes", f"{original.bytes:,}", f"{variant.bytes:,} ({1 / found.smaller:.3f}x)"),
        ("parameters", f"{original.parameters:,}", f"{variant.parameters:,}"),
        ("peak memory of the process with the weights, MiB", *memory),
        ("continued through Triton as here", "", f"{found.agreement:.0%}"),
    ]
    if found.tuned is not None:
        lines.insert(1, ("perplexity of the original trained as long", _interval(found.tuned.perplexity), ""))
    for batch, costs in after.batches.items():
        old = before.batches[batch]
        for key, name in (
            ("tokens_per_second", "tokens a second"),
            ("p50_ms", f"p50 of {verdict.TOKENS} tokens, ms"),
            ("p95_ms", f"p95 of {verdict.TOKENS} tokens, ms"),
            ("cpu_seconds_per_1000", "CPU seconds per 1,000 tokens"),
        ):
            told = f"{costs[key]:.4g}"
            if key == "p50_ms":
                told += f" ({found.times_as_long(batch):.2f}x)"
            lines.append((f"{batch} at once: {name}", f"{old[key]:.4g}", told))
    return lines


def _hand_over(run: Run, chosen: Path, signature: tensor_pb2.Signature, found: Verdict, given: Texts) -> None:
    plan = run.hparams
    looked_at = max((step["low_rank"]["samples"] for step in plan["steps"] if "low_rank" in step), default=0)
    calibration = texts.digest(given.calibration(looked_at)) if looked_at else ""
    said = "PASS: every limit is kept" if found.passed else "FAIL: it " + "; it ".join(found.missed)
    made = words(plan["steps"])
    table = rows(found)
    print("\n".join("  ".join(cell.ljust(48) for cell in row) for row in table), said, sep="\n", flush=True)
    recipe = {"steps": plan["steps"], "limits": plan["limits"], "calibration_sha256": calibration}
    outputs = run.folder("outputs")
    told = {**found.told(), "steps": plan["steps"], "words": made, "calibration_sha256": calibration}
    told |= {"where": verdict.WHERE, "rows": table, "said": said, "prompts": given.prompts}
    (outputs / VERDICT_FILE).write_text(json.dumps(told, indent=1))
    pairs = zip(given.prompts, found.original.continuations, found.variant.continuations, strict=True)
    html = plots.page(
        f"{run.spec.base_model or 'language model'}: {made}",
        f"<p><b>{escape(said)}</b></p><p>{escape(made)}</p>",
        plots.table(["", "original", "variant"], table),
        f"<p>Time and memory: {escape(verdict.WHERE)}.</p><h2>Continuations</h2>",
        plots.table(["prompt", "original", "variant"], list(pairs)),
        f"<h2>Recipe</h2><pre>{escape(json.dumps(recipe, indent=1))}</pre>",
    )
    (outputs / REPORT_FILE).write_text(html)
    card = [
        f"# {made}",
        "",
        f"Made of `{run.spec.base_model}`, judged on `{run.spec.dataset}`. **{said}.**",
        "",
        "| | original | variant |",
        "|---|---|---|",
        *(f"| {what} | {before} | {after} |" for what, before, after in table),
        "",
        f"Measured through {verdict.WHERE}.",
        "",
        "```json",
        json.dumps(recipe, indent=1),
        "```",
    ]
    rejected = "" if found.passed else "it " + "; it ".join(found.missed)
    version = run.complete(chosen, signature, found.metrics, outputs, card="\n".join(card), rejected=rejected)
    print(f"registered as {version or 'nothing: the run names no model'}", flush=True)


def _interval(figure: Figure) -> str:
    return f"{figure.value:.4g} [{figure.low:.4g}, {figure.high:.4g}]"


def _names() -> str:
    return ", ".join(name for name, each in TECHNIQUES.items() if each.form is Form.LANGUAGE)
