"""Loops that end when they are told to."""

import asyncio


def leave_if_cancelled() -> None:
    """For loops over the client's waits: before Python 3.12 a wait that ends in the moment in which it is cancelled
    swallows that (CPython gh-86296), and the loop would go on for ever."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
