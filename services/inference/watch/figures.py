"""What a transform of the type `drift` reports, as figures; and what a model was trained on, by its lineage. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from aios.code import CODE_DATASET
from aios.inference.v1 import monitoring_pb2
from aios.names import DatasetVersionName, ModelVersionName, RunName
from aios.requirements import REQUIREMENTS_DATASET

NO_DATA = frozenset({CODE_DATASET, REQUIREMENTS_DATASET})
"""Datasets of what runs are given and is no data: their code, and the lock of their packages."""
GENERATIONS_MAX = 8
"""Models made of models that are looked back through."""


def read_report(into: monitoring_pb2.DriftReport, report: Mapping[str, Any]) -> None:
    """Fill in what `report.json` says."""
    rows = report["rows"]
    into.rows, into.baseline_rows = int(rows["input"]), int(rows["baseline"])
    for column, found in sorted(report["drift"].items()):
        shown = into.columns.add(column=column, drifted=bool(found["drifted"]))
        for key in ("psi", "ks", "ks_p", "mmd", "mmd_p", "outliers"):
            if found.get(key) is not None:
                setattr(shown, key, float(found[key]))
    into.psi_max = max(
        (
            float(each["psi"])
            for each in report["drift"].values()
            if "psi" in each and float(each["psi"]) > float(each.get("psi_by_chance") or 0)
        ),
        default=0.0,
    )


def trained_on(model_version: str, edges: Iterable[tuple[str, str]]) -> list[str]:
    """The dataset versions that the run of a model was given, or, of a model made of another, that one's run.

    Args:
        edges: Of the lineage, each from source to target.
    """
    parents: dict[str, list[str]] = {}
    for source, target in edges:
        parents.setdefault(target, []).append(source)
    line = [model_version]
    for _ in range(GENERATIONS_MAX):
        runs = [each for name in line for each in parents.get(name, []) if RunName.matches(each)]
        given = [each for run in runs for each in parents.get(run, [])]
        found = {each for each in given if DatasetVersionName.matches(each)}
        data = sorted(each for each in found if DatasetVersionName.parse(each).dataset not in NO_DATA)
        if data:
            return data
        line = [each for each in given if ModelVersionName.matches(each)]
    return []
