"""What sweeps do, between their doors and their records."""

from aios.errors import InvalidArgument
from aios.names import RunName, SweepName, check_id, new_id, project_of
from aios.records import Database, Feed, Tx
from aios.runtime import telemetry
from aios.runtime.clock import Clock
from aios.runtime.context import principal
from aios.trainer.v1 import run_pb2, sweep_pb2, sweep_service_pb2
from services.trainer.service import Trainer
from services.trainer.sweeps import advance, mapping, report, rules, sampling, space, store
from services.trainer.sweeps.rules import State, Sweep, SweepSpec, Trial

GRID_MAX = rules.TRIALS_MAX


class Sweeps:
    """Sweeps and their trials. What becomes of them is decided by the loop, from what is stored here."""

    def __init__(self, db: Database, trainer: Trainer, clock: Clock) -> None:
        self.feed = Feed(db)
        self._db = db
        self._trainer = trainer
        self._clock = clock

    async def create(self, request: sweep_service_pb2.CreateSweepRequest) -> sweep_pb2.Sweep:
        """Accept a sweep.

        Raises:
            InvalidArgument: naming the wrong field; also where no node could ever hold a trial's job.
        """
        project = project_of(request.parent) or ""
        check_id(project, "parent")
        sweep_id = request.sweep_id or new_id("sweep")
        check_id(sweep_id, "sweep_id", rules.SWEEP_ID_LENGTH_MAX)
        asked = sweep_pb2.SweepSpec()
        asked.CopyFrom(request.sweep.spec)
        spec = mapping.spec_from_proto(asked)
        _check_grid(spec)
        mapping.check_values(asked, spec)
        if asked.run.model:
            raise InvalidArgument.of("sweep.spec.run.model", "is for the best: name none for the trials")
        name = SweepName(project, sweep_id)
        await self._pin(project, asked.run, "sweep.spec.run")
        first = sampling.propose(spec, [])
        assert first is not None  # a grid has a point
        await self._trainer.check_placeable(
            RunName(project, f"{sweep_id}-t0"), mapping.run_spec(asked, first.values)
        )
        if asked.HasField("last"):
            await self._pin(project, asked.last, "sweep.spec.last")
            mapping.last_spec(asked, {})
        now = self._clock.now()
        sweep = Sweep(
            name=name,
            spec=spec,
            state=State.RUNNING,
            asked=asked.SerializeToString(deterministic=True),
            create_time=now,
            update_time=now,
            creator=principal().subject,
            traceparent=telemetry.current_traceparent(),
            last=asked.HasField("last"),
        )

        def write(tx: Tx) -> sweep_pb2.Sweep:
            store.add(tx, sweep)
            return mapping.sweep_to_proto(sweep, [])

        return await self._db.once(request, write, sweep_pb2.Sweep)

    async def get(self, name: SweepName) -> tuple[Sweep, list[Trial]]:
        """One sweep and its trials."""
        return await self._db.read(lambda tx: (store.get(tx, name), store.all_trials(tx, name)))

    async def list_sweeps(
        self, project: str, request: sweep_service_pb2.ListSweepsRequest
    ) -> tuple[list[sweep_pb2.Sweep], str, int]:
        """A page of sweeps, the next page's token, and the revision that both are of."""

        def read(tx: Tx) -> tuple[list[sweep_pb2.Sweep], str, int]:
            found, token = store.page(tx, project, request)
            shown = [mapping.sweep_to_proto(sweep, store.all_trials(tx, sweep.name)) for sweep in found]
            return shown, token, tx.revision()

        return await self._db.read(read)

    async def list_trials(
        self, name: SweepName, request: sweep_service_pb2.ListTrialsRequest
    ) -> tuple[list[sweep_pb2.Trial], str]:
        """A page of trials."""

        def read(tx: Tx) -> tuple[list[sweep_pb2.Trial], str]:
            sweep = store.get(tx, name)
            found, token = store.trials_page(tx, name, request)
            return [mapping.trial_to_proto(sweep, trial) for trial in found], token

        return await self._db.read(read)

    async def cancel(self, name: SweepName) -> sweep_pb2.Sweep:
        """Ask a sweep to stop."""

        def write(tx: Tx) -> sweep_pb2.Sweep:
            before, trials = store.get(tx, name), store.all_trials(tx, name)
            after = advance.cancel(before)
            after = store.save(tx, before, after, trials, trials, self._clock.now())
            return mapping.sweep_to_proto(after, trials)

        return await self._db.write(write)

    async def report(self, name: SweepName) -> str:
        """What was found so far, as HTML."""
        sweep, trials = await self.get(name)
        return report.html(sweep, trials)

    async def _pin(self, project: str, run: run_pb2.RunSpec, path: str) -> None:
        """Put the version that each dataset means now in the place of its name."""
        try:
            versions = await self._trainer.versions(project, run)
        except InvalidArgument as error:
            fields = {field.replace("spec", path, 1): text for field, text in error.fields.items()}
            raise InvalidArgument(error.message, fields=fields, reason=error.reason) from None
        run.dataset, run.code = versions.get("dataset", ""), versions.get("code", "")
        run.base_model, run.requirements = versions.get("base_model", ""), versions.get("requirements", "")
        for key in list(run.datasets):
            run.datasets[key] = versions[f"datasets.{key}"]


def _check_grid(spec: SweepSpec) -> None:
    if spec.sampler.kind == "grid" and (size := space.grid_size(spec.space)) > GRID_MAX:
        raise InvalidArgument.of(
            f"{mapping.PATH}.parameters",
            f"make a grid of {size} trials; {GRID_MAX} at most: give steps or values",
        )
