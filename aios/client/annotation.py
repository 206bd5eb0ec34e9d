"""Labels by people: items in, proposals of models, files of other tools, and the versions that come out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from aios.client import label_exports, label_items, label_models
from aios.client.deployments import Deployments
from aios.client.label_calls import LabelCalls
from aios.client.models import Models
from aios.client.predictions import Predictions
from aios.data.v1 import annotation_pb2, dataset_pb2
from aios.data.v1 import annotation_service_pb2 as pb
from aios.errors import InvalidArgument
from aios.labels import wire
from aios.labels.plain import from_plain
from aios.labels.records import Labelled, Record
from aios.names import DatasetName, DeploymentName

TRANSFORM = "aios.labels/1"


class Labels(LabelCalls):
    """`client.labels`."""

    async def add(
        self,
        name: str,
        pattern: str = "*",
        *,
        rows: bool = True,
        limit: int | None = None,
        gold: str = "",
    ) -> int:
        """Add the version's items: rows of its tables, or files where there is no table. Returns how many are new.

        Args:
            pattern: Of paths in the version, as a shell has it.
            rows: False to take tables as files.
            limit: At most so many items.
            gold: A column whose value is the right label, where it has one: people are measured by those.
        """
        project = await self.get(name)
        kind = wire.kind_from_proto(project.kind, "kind")
        found = label_items.items(self._datasets, project.dataset_version, pattern, kind, rows=rows)
        taken: list[pb.NewLabelTask] = []
        async for record in found:
            if len(taken) == limit:
                break
            known = record.data.get(gold) if gold else None
            shown = replace(record, data={key: value for key, value in record.data.items() if key != gold})
            task = _new(shown)
            if known not in (None, ""):
                task.gold.CopyFrom(wire.label_to_proto(from_plain(known, kind)))
            taken.append(task)
        return (await self._add(name, taken))[0]

    async def propose(self, name: str, model: Callable[[Record], Mapping[str, float]], source: str) -> int:
        """Give the open tasks a model's proposals, for classes. Returns how many.

        Args:
            model: Probability by class of one item.
            source: What the model is called.
        """
        project = await self.get(name)
        updates = [
            label_models.proposal(task, model(_record(task)), source, project.labels)
            async for task in self.tasks(name, ["open"])
        ]
        await self.prepare(name, updates)
        return len(updates)

    async def prelabel(self, name: str, deployment: str, columns: Sequence[str] = ()) -> int:
        """Give the open tasks, rows of tables, what a deployment says of their columns of numbers. Returns how many.

        Args:
            columns: Those that the model takes, in its order; all columns of numbers but `label` where none is named.
        """
        project = await self.get(name)
        full = self._connection.name(DeploymentName, deployment)
        served = (await Deployments(self._connection).get(str(full))).spec.model_version
        classes = (await Models(self._connection).version(served)).signature.labels
        open_tasks = [task async for task in self.tasks(name, ["open"])]
        scores = await label_models.scores_of_rows(
            open_tasks,
            project.dataset_version,
            self._datasets,
            Predictions(self._connection),
            full.deployment,
            classes,
            columns,
        )
        source = f"{full.deployment} {served.removeprefix(self._connection.project + '/')}"
        updates = [
            label_models.proposal(task, each, source, project.labels)
            for task, each in zip(open_tasks, scores, strict=True)
        ]
        await self.prepare(name, updates)
        return len(updates)

    async def rank(self, name: str, strategy: str, count: int = 100, seed: int = 0) -> int:
        """Put open tasks first that are worth most. Returns how many have a priority now.

        Args:
            strategy: `entropy`, `margin` or `least-confidence` of proposals; `k-center` or `k-means` of the items'
                columns of numbers.
            count: How many the latter two choose.
        """
        project = await self.get(name)
        every = [task async for task in self.tasks(name)]
        free = [task for task in every if task.state == annotation_pb2.LabelTask.STATE_OPEN]
        done = [task for task in every if task.state != annotation_pb2.LabelTask.STATE_OPEN]
        updates = label_models.priorities(free, done, strategy, count, project.labels, seed)
        await self.prepare(name, updates)
        return sum(update.priority > 0 for update in updates)

    async def labelled(self, name: str, states: Iterable[str] = ("accepted",)) -> Labelled:
        """A label project's records: the final labels of tasks in these states, and what each person said."""
        project = await self.get(name)
        records = [_record(task) async for task in self.tasks(name, states)]
        kind = wire.kind_from_proto(project.kind, "kind")
        return Labelled(kind, list(project.labels), records)

    async def export(
        self, name: str, form: str, folder: str | Path, states: Iterable[str] = ("accepted",)
    ) -> Sequence[Path]:
        """Write labels into a directory as other tools read them: see `aios.labels.formats`."""
        labelled = await self.labelled(name, states)
        return label_exports.write(labelled, form, Path(folder))

    async def export_version(
        self, name: str, dataset: str, form: str = "table", message: str = ""
    ) -> dataset_pb2.DatasetVersion:
        """Make a dataset version of the accepted labels. Its lineage is the version that was labelled, and the project.

        Args:
            form: `table` adds a column `label` to the rows, for training; `folders` puts files into a folder for each
                class; or a format of `aios.labels.formats`.
        """
        project = await self.get(name)
        labelled = await self.labelled(name)
        if not labelled.records:
            raise InvalidArgument.of("name", f"{project.name} has no accepted label yet")
        origin = dataset_pb2.Origin(
            transform=TRANSFORM, inputs=[project.dataset_version], label_project=project.name
        )
        origin.parameters.update(
            {
                "format": form,
                "kind": str(labelled.kind),
                "labels": list(project.labels),
                "items": len(labelled.records),
            }
        )
        full = self._connection.name(DatasetName, dataset)
        return await label_exports.push(
            self._datasets, str(full), project.dataset_version, labelled, form, origin, message
        )

    async def import_labels(
        self, name: str, form: str, source: str | Path, annotator: str = "import"
    ) -> tuple[int, int]:
        """Add labels that were made elsewhere, for items that are there or become tasks. Returns tasks and labels added.

        Args:
            annotator: Who said it, where the format does not say.
        """
        project = await self.get(name)
        kind = wire.kind_from_proto(project.kind, "kind")
        known = [_record(task) async for task in self.tasks(name)]
        records = label_exports.read(Path(source), form, Labelled(kind, list(project.labels), known))
        return await self._add(name, [_new(each, annotator) for each in records])


def _new(record: Record, annotator: str = "") -> pb.NewLabelTask:
    """A record as the service takes it; its own label is what `annotator` says."""
    item = annotation_pb2.LabelItem(
        path=record.path, row=record.row, width=record.width, height=record.height
    )
    if record.data:
        item.data.update(record.data)
    said = dict(record.annotations)
    if record.label is not None and annotator and not said:
        said[annotator] = record.label
    annotations = [
        annotation_pb2.Annotation(annotator=who, label=wire.label_to_proto(label))
        for who, label in said.items()
    ]
    return pb.NewLabelTask(item=item, annotations=annotations)


def _record(task: annotation_pb2.LabelTask) -> Record:
    item = task.item
    return Record(
        item.path,
        item.row if item.HasField("row") else None,
        MessageToDict(item.data),
        item.width,
        item.height,
        wire.label_from_proto(task.label) if task.HasField("label") else None,
        {
            each.annotator: wire.label_from_proto(each.label)
            for each in task.annotations
            if each.HasField("label")
        },
    )
