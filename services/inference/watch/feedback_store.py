"""Answers and what they should have been, in SQL. Plain functions of a transaction."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Row, Table, case, delete, func, insert, or_, select, update

from aios.names import DeploymentName, RevisionName
from aios.records import Tx
from services.inference import store as deployments
from services.inference.tables import answers, feedback
from services.inference.watch.store import of
from services.inference.watch.truth import ACCURACY, LATELY, Quality, Said, judge

KEPT_MAX = 100_000
"""Answers, and feedback, of each deployment: the newest. Feedback for older answers finds nothing."""
WAITING_MAX = 10_000
"""Feedback without an answer that a new file of answers is looked through for: the newest."""
TRIM_EVERY = 1_000  # pieces of feedback: to look for what is too old takes longer than to keep one


class Instance(NamedTuple):
    """One instance of a request: by its trace, or the id that the client gave it; an empty one is not known."""

    trace_id: str
    request_id: str
    number: int


def add_answers(tx: Tx, revision: RevisionName, found: Sequence[tuple[Instance, Said]]) -> None:
    """Keep what a revision answered, and compare it with feedback that waits."""
    if not found:
        return
    name = DeploymentName(revision.project, revision.deployment)
    number = int(revision.revision)
    rows = [
        {**_key(name), "revision": number, **_instance(each), "label": said.label, "value": said.value}
        for each, said in found
    ]
    tx.execute(insert(answers), rows)
    _trim(tx, answers, name)
    query = select(feedback).where(*of(feedback, name), feedback.c.revision.is_(None))
    waiting = tx.execute(query.order_by(feedback.c.number.desc()).limit(WAITING_MAX)).all()
    if not waiting:
        return
    known = {(each.trace_id, each.number): said for each, said in found}
    known |= {(each.request_id, each.number): said for each, said in found if each.request_id}
    joined = False
    for row in waiting:
        answer = known.get((row.trace_id or row.request_id, row.instance))
        if answer is not None:
            _join(tx, row.number, number, answer, Said(row.label, row.value))
            joined = True
    if joined:
        _grade(tx, name, number)


def add_feedback(tx: Tx, name: DeploymentName, said: Iterable[tuple[Instance, Said]]) -> tuple[int, int]:
    """Keep what predictions should have been; the newest counts.

    Returns:
        How many were compared with their answers, and how many wait for them.
    """
    joined = waiting = number = 0
    graded = set[int]()
    for each, truth in said:
        key = {**_key(name), **_instance(each)}
        same = [feedback.c[column] == value for column, value in key.items()]
        tx.execute(delete(feedback).where(*same))
        added = insert(feedback).values(**key, label=truth.label, value=truth.value)
        number = tx.execute(added.returning(feedback.c.number)).scalar_one()
        answer = _answer(tx, name, each)
        if answer is None:
            waiting += 1
            continue
        _join(tx, number, answer.revision, Said(answer.label, answer.value), truth)
        graded.add(answer.revision)
        joined += 1
    if number % TRIM_EVERY < joined + waiting:
        _trim(tx, feedback, name)
    for revision in graded:
        _grade(tx, name, revision)
    return joined, waiting


def quality(tx: Tx, name: RevisionName) -> Quality:
    """How good the newest answers of a revision were."""
    mine = (
        *of(feedback, DeploymentName(name.project, name.deployment)),
        feedback.c.revision == int(name.revision),
    )
    newest = select(feedback.c.correct, feedback.c.off).where(*mine)
    lately = newest.order_by(feedback.c.number.desc()).limit(LATELY).subquery()
    right = func.sum(case((lately.c.correct, 1), else_=0))
    figures = select(
        func.count().label("compared"),
        func.count(lately.c.correct).label("judged"),
        right.label("correct"),
        func.avg(lately.c.off).label("mae"),
    )
    row = tx.execute(figures.select_from(lately)).one()
    return Quality(
        count=row.compared,
        accuracy=float(row.correct) / row.judged if row.judged else None,
        mae=None if row.mae is None else float(row.mae),
    )


def _grade(tx: Tx, name: DeploymentName, number: int) -> None:
    """Let gates know."""
    revision = name_of(name, number)
    found = quality(tx, revision)
    if found.sure and found.accuracy is not None:
        before = deployments.revision(tx, revision)
        deployments.note_quality(tx, revision, {**before.quality, ACCURACY: found.accuracy})


def name_of(name: DeploymentName, number: int) -> RevisionName:
    """A revision by its number."""
    return RevisionName(name.project, name.deployment, str(number))


def _answer(tx: Tx, name: DeploymentName, each: Instance) -> Row[Any] | None:
    """The newest one that is known of an instance."""
    known = []
    if each.trace_id:
        known.append(answers.c.trace_id == each.trace_id)
    if each.request_id:
        known.append(answers.c.request_id == each.request_id)
    query = select(answers).where(*of(answers, name), or_(*known), answers.c.instance == each.number)
    return tx.execute(query.order_by(answers.c.number.desc()).limit(1)).one_or_none()


def _join(tx: Tx, number: int, revision: int, answer: Said, truth: Said) -> None:
    found = judge(answer, truth)
    values = {"revision": revision, "correct": found.correct, "off": found.off}
    tx.execute(update(feedback).where(feedback.c.number == number).values(values))


def _trim(tx: Tx, table: Table, name: DeploymentName) -> None:
    numbers = select(table.c.number).where(*of(table, name)).order_by(table.c.number.desc())
    last = tx.execute(numbers.offset(KEPT_MAX).limit(1)).scalar_one_or_none()
    if last is not None:
        tx.execute(delete(table).where(*of(table, name), table.c.number <= last))


def _key(name: DeploymentName) -> dict[str, Any]:
    return {"project": name.project, "deployment": name.deployment}


def _instance(each: Instance) -> dict[str, Any]:
    return {"trace_id": each.trace_id, "request_id": each.request_id, "instance": each.number}
