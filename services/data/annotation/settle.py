"""What becomes of a task when somebody has answered it. Inside a transaction."""

from dataclasses import replace

from aios.labels import consensus
from aios.records import Tx
from services.data.annotation import mapping, store, tasks
from services.data.annotation.projects import LabelProject
from services.data.annotation.tasks import State
from services.data.annotation.work import Annotation, Task

NOUN = "label_task"


def annotated(
    tx: Tx, project: LabelProject, task: Task, annotation: Annotation, *, announce: bool = True
) -> Task:
    """Keep an answer, and move the task on.

    Raises:
        LabelLeaseLost: nobody is asked any more.
    """
    if task.gold:
        # Its label is known: the answer measures the annotator, and the task stays.
        store.add_annotation(tx, task, annotation)
        return task
    said = list(store.told(tx, project.name, [task])[0].labels.values())
    if annotation.label is None:
        progress = tasks.skipped(task.progress, project.rules)
    else:
        said.append(annotation.label)
        progress = tasks.labelled(task.progress, consensus.agreement(project.kind, said), project.rules)
    store.add_annotation(tx, task, annotation)
    changed = replace(task, progress=progress)
    if progress.state is not State.OPEN and said:
        found = consensus.majority(project.kind, said)
        changed = replace(changed, label=found.label, confidence=found.confidence)
    saved = store.save(tx, changed, tx.now())
    if announce:
        tell(tx, saved, "annotated" if progress.state is State.OPEN else progress.state.value)
    return saved


def tell(tx: Tx, task: Task, change: str) -> None:
    """Emit a task as it is now, without what is shown to those who label."""
    tx.emit(NOUN, task.name.project, task.resource, change, mapping.task_to_proto(task, data=False))
