"""The model card of what a recipe made, from the facts of its run.

Sections as in Mitchell et al., Model Cards for Model Reporting (2019). It says what was measured and what was not; nobody
has to remember to write it.
"""

import platform
from collections.abc import Sequence
from importlib.metadata import version

from aios.train import Run
from services.trainer.job.evaluate import Evaluation, Figure

SLICES_MAX = 30
PIPE = "\\|"  # in a table
FAR = 2.0
"""A class is named among the limits where its interval lies below the whole by so many half widths of its own."""


def write(run: Run, evaluation: Evaluation) -> str:
    """Markdown."""
    spec = run.spec
    parts = [
        f"# {spec.model or run.name.rpartition('/')[2]}",
        spec.description,
        "## Model",
        _table(
            ["", ""],
            [
                ("recipe", f"`{spec.recipe}`"),
                ("run", f"`{run.name}`"),
                *((("made from", f"`{spec.base_model}`"),) if spec.base_model else ()),
                ("made with", f"PyTorch {version('torch')}, Python {platform.python_version()}"),
            ],
        ),
        "## Data",
        _data(run, evaluation),
        "## Training",
        _table(
            ["hyperparameter", "value"],
            [(f"`{key}`", f"`{value}`") for key, value in sorted(run.hparams.items())]
            + [("`seed`", f"`{run.seed}`")],
        ),
        "## Evaluation",
        _table(
            ["figure", "value", "95% interval"],
            [(name, f"{each.value:.4g}", _interval(each)) for name, each in evaluation.figures.items()],
        ),
        *_slices(evaluation),
        "## Limits",
        "\n".join(f"- {each}" for each in _limits(run, evaluation)),
    ]
    return "\n\n".join(each for each in parts if each) + "\n"


def _data(run: Run, evaluation: Evaluation) -> str:
    named = [("trained on", run.spec.dataset), *sorted(run.spec.datasets.items())]
    rows = [(what, f"`{dataset}`") for what, dataset in named if dataset]
    if evaluation.samples:
        rows.append(("judged on", f"{evaluation.samples} samples of it that training did not see"))
    return _table(["", ""], rows) if rows else "It makes its own, by playing."


def _slices(evaluation: Evaluation) -> list[str]:
    if not evaluation.classes:
        return []
    worst = sorted(evaluation.classes.items(), key=lambda each: each[1].value)[:SLICES_MAX]
    rows = [(name, f"{each.value:.4g}", _interval(each)) for name, each in worst]
    return ["### By class, the worst first", _table(["class", "recall", "95% interval"], rows)]


def _limits(run: Run, evaluation: Evaluation) -> list[str]:
    whole = evaluation.figures.get("accuracy")
    found = []
    if whole is not None:
        weak = [name for name, each in evaluation.classes.items() if _far_below(each, whole)]
        if weak:
            found.append(f"Clearly worse than on the whole: {', '.join(weak[:SLICES_MAX])}.")
    if evaluation.samples and "calibration_error" in evaluation.figures:
        error = evaluation.figures["calibration_error"].value
        found.append(f"Its confidence is off by {error:.2g} on average.")
    if "epsilon" in evaluation.figures:
        spent = [evaluation.figures[name].value for name in ("epsilon", "delta")]
        found.append("Trained with differential privacy: epsilon {:.3g}, delta {:.3g}.".format(*spent))
    else:
        found.append("Trained without differential privacy: what it was trained on may be read back from it.")
    found.append("Not tried with inputs chosen against it: `aios model assess` does.")
    found.append("Figures are of this data alone. What other data does to them, nobody has measured.")
    return found


def _far_below(part: Figure, whole: Figure) -> bool:
    return part.value + FAR * (part.high - part.value) < whole.value


def _interval(each: Figure) -> str:
    return f"{each.low:.4g} to {each.high:.4g}" if each.low != each.high else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', PIPE) for cell in each)} |" for each in lines)
