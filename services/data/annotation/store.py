"""Rows of label projects, their tasks and annotations. Plain functions of a transaction."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from aios.data.v1 import annotation_pb2 as pb
from aios.labels import wire
from aios.names import DatasetVersionName, LabelProjectName, LabelTaskName
from aios.records import Page, Tx
from aios.records.pages import ListRequest
from services.data.annotation import mapping
from services.data.annotation.projects import (
    LabelProject,
    LabelProjectExists,
    LabelProjectNotFound,
    LabelTaskNotFound,
)
from services.data.annotation.tables import label_annotations, label_leases, label_projects, label_tasks
from services.data.annotation.tasks import Progress, State
from services.data.annotation.work import Annotation, Item, Prelabelled, Task, Told

TASKS, TASKS_MAX = 50, 200
AT_ONCE = 500  # placeholders in one statement


def add_project(tx: Tx, project: LabelProject) -> None:
    """Keep a new label project.

    Raises:
        LabelProjectExists
    """
    name = project.name
    if tx.execute(select(label_projects.c.id).filter_by(**key(name, "id"))).one_or_none():
        raise LabelProjectExists(f"{name} exists: choose another label_project_id.", name=str(name))
    row = {
        "spec": mapping.project_to_proto(project),
        "dataset_version": str(project.version),
        "tasks": 0,
        "creator": project.creator,
        "create_time": project.create_time,
    }
    tx.execute(insert(label_projects).values(key(name, "id") | row))


def get_project(tx: Tx, name: LabelProjectName) -> LabelProject:
    """A label project with its progress.

    Raises:
        LabelProjectNotFound
    """
    row = tx.execute(select(label_projects).filter_by(**key(name, "id"))).one_or_none()
    if row is None:
        raise LabelProjectNotFound(f"{name} does not exist: see `aios label list`.", name=str(name))
    return _project(tx, row)


def projects_page(tx: Tx, request: ListRequest, project: str) -> tuple[list[LabelProject], str]:
    """One page of label projects by name, and the token of the next."""
    query = select(label_projects).filter_by(project=project)
    rows, token = Page.of(request).fetch(tx, query, by=(label_projects.c.id,))
    return [_project(tx, row) for row in rows], token


def delete_project(tx: Tx, name: LabelProjectName) -> None:
    """Forget a label project and everything in it."""
    for table in (label_leases, label_annotations, label_tasks):
        tx.execute(delete(table).filter_by(**key(name)))
    tx.execute(delete(label_projects).filter_by(**key(name, "id")))


def over(tx: Tx, project: str, versions: Iterable[DatasetVersionName]) -> list[str]:
    """Names of the label projects over any of some versions."""
    query = select(label_projects.c.id).where(
        label_projects.c.project == project, label_projects.c.dataset_version.in_(map(str, versions))
    )
    return [str(LabelProjectName(project, row.id)) for row in tx.execute(query)]


def tasks_by_key(tx: Tx, name: LabelProjectName, paths: Collection[str]) -> Mapping[tuple[str, int], Task]:
    """The tasks of some files, by what their items are known by."""
    query = tasks_of(name).where(label_tasks.c.path.in_(paths))
    return {(row.path, row.row): task_of(row) for row in tx.execute(query)}


def add_tasks(tx: Tx, name: LabelProjectName, first: int, tasks: Sequence[Task]) -> None:
    """Keep new tasks, numbered from `first`."""
    rows = [key(name) | {"number": first + index} | _columns(task) for index, task in enumerate(tasks)]
    if rows:
        tx.execute(insert(label_tasks), rows)
    tx.execute(update(label_projects).filter_by(**key(name, "id")).values(tasks=first + len(tasks) - 1))


def task_count(tx: Tx, name: LabelProjectName) -> int:
    """How many tasks a label project has: the highest number."""
    count: int = tx.execute(select(label_projects.c.tasks).filter_by(**key(name, "id"))).scalar_one()
    return count


def get_task(tx: Tx, name: LabelTaskName) -> Task:
    """One task.

    Raises:
        LabelTaskNotFound
    """
    project = LabelProjectName(name.project, name.label_project)
    number = int(name.task) if name.task.isdecimal() and len(name.task) < 10 else 0
    row = tx.execute(tasks_of(project).where(label_tasks.c.number == number)).one_or_none()
    if row is None:
        raise LabelTaskNotFound(f"{name} does not exist.", name=str(name))
    return task_of(row)


def tasks_page(
    tx: Tx, request: ListRequest, name: LabelProjectName, states: Sequence[State]
) -> tuple[list[Told], str]:
    """One page of tasks with their annotations, and the token of the next."""
    query = tasks_of(name)
    if states:
        query = query.where(label_tasks.c.state.in_(states))
    rows, token = Page.of(request, TASKS, TASKS_MAX).fetch(tx, query, by=(label_tasks.c.number,))
    return told(tx, name, [task_of(row) for row in rows]), token


def all_told(tx: Tx, name: LabelProjectName, states: Sequence[State]) -> list[Told]:
    """All tasks in some states, with their annotations."""
    found = [task_of(row) for row in tx.execute(tasks_of(name).where(label_tasks.c.state.in_(states)))]
    return told(tx, name, sorted(found, key=lambda task: task.number))


def told(tx: Tx, name: LabelProjectName, tasks: Sequence[Task]) -> list[Told]:
    """Tasks with the annotations of their rounds, oldest first."""
    by_number: dict[tuple[int, int], list[Annotation]] = defaultdict(list)
    for start in range(0, len(tasks), AT_ONCE):
        numbers = [task.number for task in tasks[start : start + AT_ONCE]]
        query = select(label_annotations).filter_by(**key(name))
        query = query.where(label_annotations.c.number.in_(numbers))
        order = (label_annotations.c.create_time, label_annotations.c.annotator)
        for row in tx.execute(query.order_by(*order)):
            by_number[row.number, row.round].append(_annotation(row))
    return [Told(task, by_number[task.number, task.progress.round]) for task in tasks]


def save(tx: Tx, task: Task, now: datetime) -> Task:
    """Keep a task as it is now. Its leases end unless it is open."""
    saved = replace(task, revision=task.revision + 1, update_time=now)
    tx.execute(update(label_tasks).filter_by(**at(task.name)).values(_columns(saved)))
    if saved.progress.state is not State.OPEN:
        tx.execute(delete(label_leases).filter_by(**at(task.name)))
    return saved


def add_annotation(tx: Tx, task: Task, annotation: Annotation) -> None:
    """Keep what somebody said in the task's round."""
    row = {
        "round": task.progress.round,
        "annotator": annotation.annotator,
        "label": wire.label_to_proto(annotation.label) if annotation.label is not None else None,
        "skip_reason": annotation.skip_reason,
        "prelabelled": int(annotation.prelabelled),
        "seconds": annotation.seconds,
        "create_time": annotation.create_time,
    }
    tx.execute(insert(label_annotations).values(at(task.name) | row))


def key(name: LabelProjectName, column: str = "label_project") -> dict[str, Any]:
    """What finds the rows of a label project."""
    return {"project": name.project, column: name.label_project}


def at(name: LabelTaskName) -> dict[str, Any]:
    """What finds the rows of a task."""
    return {"project": name.project, "label_project": name.label_project, "number": int(name.task)}


def tasks_of(name: LabelProjectName) -> Any:
    """The query of all tasks of a label project."""
    return select(label_tasks).filter_by(**key(name))


def _project(tx: Tx, row: Row[Any]) -> LabelProject:
    name = LabelProjectName(row.project, row.id)
    version = DatasetVersionName.parse(row.dataset_version)
    project = mapping.project_from_proto(row.spec, name, version, row.creator, row.create_time, "spec")
    query = (
        select(label_tasks.c.state, label_tasks.c.gold, func.count().label("tasks"))
        .filter_by(**key(name))
        .group_by(label_tasks.c.state, label_tasks.c.gold)
    )
    counts, gold = {state.value: 0 for state in State}, 0
    for found in tx.execute(query):
        if found.gold:
            gold += found.tasks
        else:
            counts[found.state] = found.tasks
    return replace(project, counts=counts, gold=gold)


def _columns(task: Task) -> dict[str, Any]:
    path, row = task.item.key
    return {
        "path": path,
        "row": row,
        "data": dict(task.item.data or {}),
        "width": task.item.width,
        "height": task.item.height,
        "state": task.progress.state.value,
        "round": task.progress.round,
        "labels": task.progress.labels,
        "skips": task.progress.skips,
        "label": wire.label_to_proto(task.label) if task.label is not None else None,
        "confidence": task.confidence,
        "gold": task.gold,
        "prelabel": mapping.prelabel_to_proto(task.prelabel) if task.prelabel else None,
        "priority": task.priority,
        "reviewer": task.reviewer,
        "fence": task.fence,
        "revision": task.revision,
        "update_time": task.update_time,
    }


def task_of(row: Row[Any]) -> Task:
    """A row as a task."""
    return Task(
        name=LabelTaskName(row.project, row.label_project, str(row.number)),
        item=Item(row.path, None if row.row < 0 else row.row, row.data, row.width, row.height),
        progress=Progress(State(row.state), row.round, row.labels, row.skips),
        priority=row.priority,
        update_time=row.update_time,
        label=_label(row.label),
        confidence=row.confidence,
        gold=row.gold,
        prelabel=mapping.prelabel_stored(row.prelabel) if row.prelabel is not None else None,
        reviewer=row.reviewer,
        fence=row.fence,
        revision=row.revision,
    )


def _annotation(row: Row[Any]) -> Annotation:
    return Annotation(
        row.annotator,
        _label(row.label),
        row.skip_reason,
        Prelabelled(row.prelabelled),
        row.seconds,
        row.create_time,
    )


def _label(stored: pb.Label | None) -> Any:
    return wire.label_from_proto(stored) if stored is not None else None
