"""The same client without `await`: each call runs on one background event loop.

Nothing is written twice: a coroutine becomes a call that waits, an async iterator an ordinary one, a part of the
client its synchronous face.
"""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Self

from aios.client.client import AsyncClient
from aios.client.credentials import Credentials


class Client:
    """`AsyncClient` for code that is not async. Safe to use from several threads."""

    def __init__(
        self, address: str = "", token: str = "", project: str = "", *, credentials: Credentials | None = None
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aios-client", daemon=True)
        self._thread.start()

        async def make() -> AsyncClient:
            return AsyncClient(address, token, project, credentials=credentials)

        self._face = _Face(self._run(make()), self._run)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._face, name)

    def close(self) -> None:
        """Close the connection and end the background loop. Calling it twice is no error."""
        if self._thread.is_alive():
            self._face.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C in the caller ends the call too
            future.cancel()
            raise


class _Face:
    """Stands for an async object."""

    def __init__(self, inner: Any, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._inner = inner
        self._run = run

    def __getattr__(self, name: str) -> Any:
        # On the loop: a part that is made at its first use may open a channel there.
        found = self._run(_get(self._inner, name))
        if inspect.iscoroutinefunction(found):
            return lambda *args, **kwargs: self._run(found(*args, **kwargs))
        if inspect.isasyncgenfunction(found):
            return lambda *args, **kwargs: self._iterate(found(*args, **kwargs))
        if type(found).__module__.startswith("aios.client.") and not isinstance(found, Credentials):
            return _Face(found, self._run)
        return found

    def __dir__(self) -> list[str]:
        return dir(self._inner)

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            self._run(items.aclose())  # type: ignore[attr-defined]


async def _get(inner: object, name: str) -> Any:
    return getattr(inner, name)


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items)
