"""What the gateway counted of each revision, as figures: for people, for gates and for scaling."""

import math
from collections.abc import Mapping
from functools import partial

from aios.inference.v1 import deployment_pb2
from aios.names import ANY_PROJECT, JobName, RevisionName
from aios.records import Database, Tx
from aios.runtime.clock import Clock
from services.inference import mapping, monitor, scaling, store
from services.inference.gates import Figures, Trial
from services.inference.monitor import Counts, Monitor
from services.inference.policies import Scaling
from services.inference.revisions import Revision
from services.inference.rollout import Rollout
from services.inference.scaling import Load
from services.inference.watch import feedback_store
from services.inference.watch.truth import Quality
from services.inference.work import Work, Works

LATELY_SECONDS = 10.0
"""What people are shown, and what a percentile for scaling is of."""


class Watching:
    """Counts of every revision in the routing table, kept in memory."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._monitor: Monitor[RevisionName] = Monitor()
        self._loads: dict[RevisionName, list[Load]] = {}
        self._works = Works[JobName]()

    async def report(self, counts: Mapping[RevisionName, Mapping[str, Counts]]) -> None:
        """Take what was counted by door, and wake what requests wait for."""
        now = self._clock.monotonic()
        for name, each in counts.items():
            self._monitor.note(name, each, now)
            lately = self._monitor.since(name, now - LATELY_SECONDS)
            loads = self._loads.setdefault(name, [])
            loads.append(Load(now, sum(one.in_flight for one in each.values()), lately.p99_millis))
            self._loads[name] = [load for load in loads if now - load.at <= scaling.DOWN_SECONDS + 1]
        self._monitor.keep(frozenset(counts))
        for name in self._loads.keys() - counts.keys():
            del self._loads[name]
        if any(self._monitor.held(name) for name in counts):
            await self._wake(frozenset(name for name in counts if self._monitor.held(name)))

    def note_work(self, job: JobName, epoch: int, work: Work) -> None:
        """Take what the model server of a replica has counted so far."""
        self._works.note(job, epoch, work, self._clock.monotonic())

    def trial(self, seen: Rollout, age_seconds: float) -> Trial | None:
        """The trial of a deployment, with what was counted since its stage began; None where no stage is in force."""
        candidate, live = seen.trial, seen.live
        if candidate is None or candidate.stage_time is None:
            return None
        since = self._clock.monotonic() - age_seconds
        return Trial(
            candidate.number,
            candidate.stage,
            candidate.stages[0],
            candidate.stage_time,
            self._monitor.since(candidate.name, since),
            self._monitor.since(live.name, since) if live else Figures(),
            candidate.quality,
        )

    def lately(self, seen: Rollout, seconds: float) -> Figures:
        """What all revisions of a deployment did in the last while; of percentiles the worst."""
        since = self._clock.monotonic() - seconds
        found = [self._monitor.since(each.name, since) for each in seen.revisions if each.weight is not None]
        slowest = [each.p99_millis for each in found if not math.isnan(each.p99_millis)]
        return Figures(
            sum(each.requests for each in found),
            sum(each.errors for each in found),
            max(slowest, default=math.nan),
        )

    def wanted(self, revision: Revision, rule: Scaling) -> int:
        """How many replicas a revision should have, by the rule and its load."""
        now = self._clock.monotonic()
        loads = self._loads.get(revision.name, [])
        if not loads:
            return revision.wanted  # nothing is known of it yet
        idle = self._monitor.idle(revision.name, now)
        return scaling.replicas(rule, revision.wanted, loads, idle, now)

    def idle(self, name: RevisionName) -> float:
        """Seconds since a revision's last request, as far as is known."""
        return self._monitor.idle(name, self._clock.monotonic())

    def quiet(self, name: RevisionName) -> bool:
        """Whether it has nothing to do, by fresh counts."""
        return self._monitor.quiet(name, self._clock.monotonic())

    async def figures(self, project: str) -> list[deployment_pb2.RevisionFigures]:
        """What each revision in the routing table did lately."""

        def read(tx: Tx) -> list[tuple[Revision, Quality]]:
            return [
                (revision, feedback_store.quality(tx, revision.name))
                for each in store.rollouts(tx)
                if project in (each.deployment.name.project, ANY_PROJECT)
                for revision in each.revisions
                if revision.weight is not None
            ]

        return [self._figures(revision, quality) for revision, quality in await self._db.read(read)]

    def _figures(self, revision: Revision, quality: Quality) -> deployment_pb2.RevisionFigures:
        now = self._clock.monotonic()
        first, last = self._monitor.window(revision.name, now - LATELY_SECONDS)
        done, seconds = monitor.grown(first.counts, last.counts), last.at - first.at
        percentiles = (monitor.quantile(done, share) for share in (0.5, 0.95, 0.99))
        p50, p95, p99 = (0.0 if math.isnan(value) else value for value in percentiles)
        work, work_seconds = self._works.lately(
            (each.job for each in revision.replicas), now - LATELY_SECONDS
        )
        return deployment_pb2.RevisionFigures(
            revision=str(revision.name),
            seconds=seconds,
            requests=done.requests,
            requests_per_second=done.requests / seconds if seconds else 0.0,
            errors=done.errors,
            p50_millis=p50,
            p95_millis=p95,
            p99_millis=p99,
            in_flight=last.counts.in_flight,
            replicas_ready=len(revision.ready),
            replicas_wanted=revision.wanted,
            traffic=mapping.share_of(revision),
            queue_millis=work.queue_micros / 1000 / max(1, work.requests),
            compute_millis=work.compute_micros / 1000 / max(1, work.requests),
            batch_rows=work.rows / max(1, work.batches),
            prompt_tokens_per_second=work.prompt_tokens / work_seconds if work_seconds else 0.0,
            completion_tokens_per_second=work.completion_tokens / work_seconds if work_seconds else 0.0,
            feedback=quality.count,
            live_accuracy=quality.accuracy,
            live_mae=quality.mae,
        )

    async def _wake(self, names: frozenset[RevisionName]) -> None:
        """Start a replica of what is at zero."""
        for each in await self._db.read(store.rollouts):
            wanted = {
                revision.number: max(1, each.deployment.spec.scaling.minimum)
                for revision in each.revisions
                if revision.name in names and not revision.wanted and revision.asleep
            }
            if wanted:
                await self._db.write(partial(store.scale, name=each.deployment.name, wanted=wanted))
