"""What is done with logged models, between their door and their records."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MappingProxyType

from aios.errors import InvalidArgument
from aios.names import RunName
from aios.records import Database, Tx
from aios.runtime.clock import Clock
from aios.runtime.context import principal
from services.trainer.tracking import experiments, filters, logged, logged_store, registered_store, store
from services.trainer.tracking.experiments import ParamChanged, TagNotFound
from services.trainer.tracking.filters import Order
from services.trainer.tracking.logged import PENDING, Logged
from services.trainer.tracking.reach import reach, reach_model

SEARCH_SIZE, SEARCH_SIZE_MAX = 100, 1_000
Registrations = dict[str, list[tuple[str, int]]]
"""Logged model to the names and versions that it was registered as."""


class LoggedModels:
    """Logged models of the caller's project."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def create(
        self,
        experiment_id: str,
        name: str,
        model_type: str,
        run_id: str,
        params: Sequence[tuple[str, str]],
        tags: Sequence[tuple[str, str]],
    ) -> Logged:
        """Take note of a model whose files follow."""
        project, now = principal().project, self._clock.now()
        words = experiments.said(params=params, tags=tags)
        made = Logged(
            id=f"m-{secrets.token_hex(16)}",
            experiment=experiment_id or experiments.DEFAULT,
            name=experiments.check_name(name or "model"),
            model_type=model_type[: experiments.NAME_MAX],
            run=run_id,
            status=PENDING,
            create_time=now,
            update_time=now,
            params=words.params,
            tags=words.tags,
        )

        def write(tx: Tx) -> None:
            store.experiment(tx, project, made.experiment, now)
            if run_id:
                reach(tx, RunName(project, run_id))
            logged_store.add(tx, project, made)

        await self._db.write(write)
        return made

    async def get(self, model_id: str) -> Logged:
        """One logged model."""
        project = principal().project
        return await self._db.read(lambda tx: logged_store.get(tx, project, model_id))

    async def finish(self, model_id: str, status: str) -> Logged:
        """Say that it is whole, or that it failed."""
        ended = logged.check_status(status)
        return await self._change(model_id, lambda known: replace(known, status=ended))

    async def tag(self, model_id: str, tags: Sequence[tuple[str, str]]) -> Logged:
        """Set tags over those that are there."""
        words = experiments.said(tags=tags).tags
        return await self._change(
            model_id, lambda known: replace(known, tags=MappingProxyType({**known.tags, **words}))
        )

    async def untag(self, model_id: str, key: str) -> None:
        """Remove a tag."""

        def change(known: Logged) -> Logged:
            if key not in known.tags:
                raise TagNotFound(f"Logged model {known.id} has no tag {key!r}.")
            left = {name: value for name, value in known.tags.items() if name != key}
            return replace(known, tags=MappingProxyType(left))

        await self._change(model_id, change)

    async def give(self, model_id: str, params: Sequence[tuple[str, str]]) -> None:
        """Store parameters, which stay as they are."""
        words = experiments.said(params=params).params

        def change(known: Logged) -> Logged:
            for key, value in words.items():
                if known.params.get(key, value) != value:
                    raise ParamChanged.of("params", f"{key!r} is {known.params[key]!r} already")
            return replace(known, params=MappingProxyType({**known.params, **words}))

        await self._change(model_id, change)

    async def hide(self, model_id: str) -> None:
        """Hide one."""
        project = principal().project

        def write(tx: Tx) -> None:
            reach_model(tx, project, model_id)
            logged_store.hide(tx, project, model_id)

        await self._db.write(write)

    async def search(
        self, experiment_ids: Sequence[str], text: str, size: int, order: Sequence[Order], token: str
    ) -> tuple[list[Logged], str]:
        """A page of logged models, and the next page's token."""
        project, asked = principal().project, filters.conditions(text, logged.TIMES)
        if size < 0:
            raise InvalidArgument.of("max_results", "must not be negative")
        found = await self._db.read(lambda tx: logged_store.of_experiments(tx, project, experiment_ids))
        kept = filters.matching(found, asked, order, logged.value)
        start, limit = store.page_start(token), min(size or SEARCH_SIZE, SEARCH_SIZE_MAX)
        more = store.page_token(start + limit) if len(kept) > start + limit else ""
        return kept[start : start + limit], more

    async def registrations(self, found: Sequence[Logged]) -> Registrations:
        """What some were registered as."""
        project = principal().project
        return await self._db.read(
            lambda tx: registered_store.of_logged(tx, project, [each.id for each in found])
        )

    async def _change(self, model_id: str, change: Callable[[Logged], Logged]) -> Logged:
        project, now = principal().project, self._clock.now()

        def write(tx: Tx) -> Logged:
            before = reach_model(tx, project, model_id)
            after = change(before)
            if after != before:
                after = replace(after, update_time=now)
                logged_store.save(tx, project, after)
            return after

        return await self._db.write(write)
