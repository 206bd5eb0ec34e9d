"""How a label project does: progress, agreement, and each annotator."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import isfinite
from statistics import fmean, median

from aios.data.v1 import annotation_service_pb2 as pb
from aios.errors import InvalidArgument
from aios.labels import Kind, Label, similarity_of
from aios.labels.agreement import Level, cohen_kappa, fleiss_kappa, krippendorff_alpha
from services.data.annotation import mapping
from services.data.annotation.projects import LabelProject
from services.data.annotation.tasks import State
from services.data.annotation.work import Annotation, Prelabelled, Told


def of(project: LabelProject, told: Sequence[Told], level: Level) -> pb.LabelReport:
    """The report.

    Raises:
        InvalidArgument: the classes do not lie on the scale that was asked for.
    """
    values = _values(project, level)
    likeness = similarity_of(project.kind)
    answers = [each.labels for each in told if not each.task.gold]
    report = pb.LabelReport(
        label_project=mapping.project_to_proto(project),
        annotators=_annotators(project, told),
    )
    for annotator in report.annotators:
        report.prelabels_accepted += annotator.prelabels_accepted
        report.prelabels_edited += annotator.prelabels_edited
    alike = [likeness(a, b) for said in answers for a, b in combinations(said.values(), 2)]
    figures = {"agreement": fmean(alike) if alike else float("nan")}
    if project.kind is Kind.CLASSIFICATION:
        figures |= _classes(answers, project.labels, values, level)
    for field, value in figures.items():
        if isfinite(value):
            setattr(report, field, value)
    return report


def _values(project: LabelProject, level: Level) -> Sequence[float]:
    if level in (Level.NOMINAL, Level.ORDINAL):
        return range(len(project.labels))
    try:
        return [float(label) for label in project.labels]
    except ValueError:
        raise InvalidArgument.of("level", "must be nominal or ordinal: not every class is a number") from None


def _classes(
    answers: Sequence[Mapping[str, Label]], labels: Sequence[str], values: Sequence[float], level: Level
) -> Mapping[str, float]:
    order = sorted(range(len(labels)), key=lambda index: values[index])
    column = {labels[index]: position for position, index in enumerate(order)}
    table = []
    for said in answers:
        counts = [0] * len(labels)
        for label in said.values():
            counts[column[label.choices[0]]] += 1
        table.append(counts)
    sizes = Counter(sum(counts) for counts in table if sum(counts) > 1)
    usual = max(sizes, key=lambda size: (sizes[size], size), default=0)
    full = [counts for counts in table if sum(counts) == usual]
    return {
        "krippendorff_alpha": krippendorff_alpha(table, [values[index] for index in order], level),
        "fleiss_kappa": fleiss_kappa(full) if usual else float("nan"),
        "cohen_kappa": _cohen(answers),
    }


def _cohen(answers: Iterable[Mapping[str, Label]]) -> float:
    """Of each pair of annotators, weighted by what they share."""
    shared: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for said in answers:
        for one, other in combinations(sorted(said), 2):
            shared[one, other].append((said[one].choices[0], said[other].choices[0]))
    kappas = [(cohen_kappa(*zip(*pairs, strict=True)), len(pairs)) for pairs in shared.values()]
    known = [(kappa, weight) for kappa, weight in kappas if isfinite(kappa)]
    total = sum(weight for _, weight in known)
    return sum(kappa * weight for kappa, weight in known) / total if total else float("nan")


def _annotators(project: LabelProject, told: Sequence[Told]) -> Iterable[pb.AnnotatorReport]:
    likeness = similarity_of(project.kind)
    said: dict[str, list[tuple[Told, Annotation]]] = defaultdict(list)
    for each in told:
        for annotation in each.annotations:
            said[annotation.annotator].append((each, annotation))
    for name, answers in sorted(said.items()):
        gold, accepted = [], []
        for each, annotation in answers:
            if annotation.label is None or each.task.label is None:
                continue
            if each.task.gold:
                gold.append(likeness(annotation.label, each.task.label))
            elif each.task.progress.state is State.ACCEPTED:
                accepted.append(likeness(annotation.label, each.task.label))
        report = pb.AnnotatorReport(
            annotator=name,
            labelled=sum(annotation.label is not None for _, annotation in answers),
            skipped=sum(annotation.label is None for _, annotation in answers),
            gold_count=len(gold),
            prelabels_accepted=sum(each.prelabelled is Prelabelled.ACCEPTED for _, each in answers),
            prelabels_edited=sum(each.prelabelled is Prelabelled.EDITED for _, each in answers),
            median_duration=mapping.duration(median(each.seconds for _, each in answers)),
        )
        if gold:
            report.gold_accuracy = fmean(gold)
        if accepted:
            report.accepted_accuracy = fmean(accepted)
        yield report
