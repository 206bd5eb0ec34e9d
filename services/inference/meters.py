"""What the inference service tells of itself over time."""

from collections.abc import Callable, Iterable

from aios.inference.v1.deployment_pb2 import RevisionFigures
from aios.names import ANY_PROJECT, RevisionName
from aios.records import Database
from aios.records.counts import by_state
from aios.runtime.meters import Labels, Levels, Look
from services.inference import deployments, replicas, store
from services.inference.watching import Watching

Found = Iterable[tuple[float, Labels]]


WORK: tuple[tuple[str, str, str, Callable[[RevisionFigures], float]], ...] = (
    (
        "aios.revision.queue",
        "s",
        "How long requests wait for the model.",
        lambda each: each.queue_millis / 1000,
    ),
    (
        "aios.revision.compute",
        "s",
        "How long the model takes for a request.",
        lambda each: each.compute_millis / 1000,
    ),
    (
        "aios.revision.batch",
        "{prediction}",
        "Predictions that the model makes at once.",
        lambda each: each.batch_rows,
    ),
    (
        "aios.revision.tokens.read",
        "{token}/s",
        "Tokens of prompts.",
        lambda each: each.prompt_tokens_per_second,
    ),
    (
        "aios.revision.tokens.generated",
        "{token}/s",
        "Tokens of answers.",
        lambda each: each.completion_tokens_per_second,
    ),
)


QUALITY: tuple[tuple[str, str, str, Callable[[RevisionFigures], float | None]], ...] = (
    (
        "aios.revision.live_accuracy",
        "1",
        "Share of right classes, of the newest answers that somebody said the truth of.",
        lambda each: each.live_accuracy if each.HasField("live_accuracy") else None,
    ),
    (
        "aios.revision.live_mae",
        "",
        "Mean distance of numbers from the truth, of the newest answers.",
        lambda each: each.live_mae if each.HasField("live_mae") else None,
    ),
    ("aios.revision.feedback", "{answer}", "Answers that these are of.", lambda each: each.feedback or None),
)


def levels(db: Database, watching: Watching) -> list[Levels]:
    """Deployments and replicas by state, and what each revision answered in the last seconds."""

    def of_revisions(value: Callable[[RevisionFigures], float | None]) -> Look:
        async def look() -> Found:
            figures = await watching.figures(ANY_PROJECT)
            return [(found, _labels(each)) for each in figures if (found := value(each)) is not None]

        return look

    async def times() -> Found:
        return [
            (value / 1000, {**_labels(each), "quantile": quantile})
            for each in await watching.figures(ANY_PROJECT)
            for quantile, value in (
                ("0.5", each.p50_millis),
                ("0.95", each.p95_millis),
                ("0.99", each.p99_millis),
            )
        ]

    async def of_deployments() -> Found:
        return await db.read(lambda tx: by_state(tx, store.deployments.c.state, deployments.State))

    async def of_replicas() -> Found:
        return await db.read(lambda tx: by_state(tx, store.replicas.c.state, replicas.State))

    return [
        Levels("aios.deployments", "{deployment}", "Deployments by state.", of_deployments),
        Levels("aios.replicas", "{replica}", "Replicas by state.", of_replicas),
        Levels(
            "aios.revision.requests",
            "{request}/s",
            "Predictions that a revision answers.",
            of_revisions(lambda each: each.requests_per_second),
        ),
        Levels(
            "aios.revision.failed",
            "1",
            "Share of them that failed.",
            of_revisions(lambda each: each.errors / each.requests if each.requests else 0.0),
        ),
        Levels(
            "aios.revision.in_flight",
            "{request}",
            "Predictions under way.",
            of_revisions(lambda each: each.in_flight),
        ),
        *(Levels(name, unit, about, of_revisions(value)) for name, unit, about, value in (*WORK, *QUALITY)),
        Levels("aios.revision.time", "s", "How long a revision's predictions take.", times),
    ]


def _labels(figures: RevisionFigures) -> Labels:
    name = RevisionName.parse(figures.revision)
    return {"project": name.project, "deployment": name.deployment, "revision": name.revision}
