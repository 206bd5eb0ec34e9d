"""`aios up`, `down`, `status`, `logs`, `doctor`: the stack on this machine."""

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from aios.cli import output
from aios.cli.output import common
from aios.cli.progress import Bar

if TYPE_CHECKING:
    from aios.stack.layout import Layout
    from aios.stack.state import StackState

READY_SECONDS = 120.0
"""Four times what two cores need."""
MARKS = {"ready": "green", "done": "green", "failing": "red"}


@click.command()
@click.option("--foreground", is_flag=True, help="Stay; Ctrl-C stops the stack.")
@click.option(
    "--timeout", default=READY_SECONDS, show_default=True, help="Seconds to wait until everything answers."
)
@common
def up(foreground: bool, timeout: float) -> int | None:
    """Start the stack on this machine, and return when it answers."""
    from aios.stack import control

    layout = home()
    if not control.is_running(layout):
        if not fit(layout):
            return 1
        if foreground:
            from aios.stack import supervisor

            os.environ["AIOS_HOME"] = str(layout.home)
            return supervisor.main()
    elif foreground:
        output.notice("The stack is running already: `aios logs SERVICE -f` shows what it does.")
        return 1
    state = bring_up(layout, timeout)
    if output.shared().output != "table":
        _emit_status(state, layout)
    return None


@click.command()
@common
def down() -> None:
    """Stop the stack on this machine: jobs first, then services, in order."""
    from aios.stack import control

    layout = home()
    if not control.is_running(layout):
        output.notice("Nothing runs.")
        return
    began = time.monotonic()
    with Bar() as bar:

        def show(state: "StackState") -> None:
            left = [name for name, one in state.services.items() if one.pid]
            total = len(state.services)
            bar.update("stopping", total - len(left), total, ", ".join(left))

        killed = control.stop(layout, show)
    took = time.monotonic() - began
    output.notice(f"Stopped after {took:.1f} s." + (f" Killed: {', '.join(killed)}." if killed else ""))


@click.command()
@click.argument("services", nargs=-1)
@click.option("--timeout", default=READY_SECONDS, show_default=True, help="Seconds to wait for each.")
@common
def restart(services: tuple[str, ...], timeout: float) -> None:
    """Restart services one after another, each when the one before answers: an upgrade under load.

    Without names: all of ours, but not the event bus and the object store. Calls wait at the door meanwhile, jobs and
    replicas go on, and watches go on where they were.
    """
    from aios.cli.root import nearest
    from aios.errors import NotFound
    from aios.stack import control
    from aios.stack.services import RESTART_ORDER
    from aios.stack.state import TASKS

    layout = home()
    known = sorted(control.status(layout).services.keys() - TASKS)
    if unknown := [name for name in services if name not in known]:
        raise NotFound(
            f"No service {unknown[0]!r}.{nearest(unknown[0], known)} "
            f"There are: {', '.join(known) or 'none, `aios up` starts the stack'}."
        )
    for name in services or RESTART_ORDER:
        began = time.monotonic()
        control.restart(layout, name, timeout)
        output.notice(f"  {name:<10} ready after {time.monotonic() - began:.1f} s")


@click.command()
@common
def status() -> int:
    """What runs on this machine. Exit code 0 when everything answers."""
    from aios.stack import control

    layout = home()
    state = control.status(layout)
    if not state.services and output.shared().output == "table":
        output.notice(f"Nothing runs in {layout.home}: `aios up` starts it.{_reason(state)}")
        return 1
    _emit_status(state, layout)
    return 0 if state.ready else 1


@click.command()
@click.argument("service", default="")
@click.option("-f", "--follow", is_flag=True, help="Go on as more is written.")
@click.option("-n", "--lines", default=100, show_default=True, help="How many of the last lines.")
@common
def logs(service: str, follow: bool, lines: int) -> None:
    """What a service of the stack wrote."""
    from aios.cli.root import nearest
    from aios.errors import NotFound
    from aios.stack import control

    layout = home()
    known = sorted(path.stem for path in layout.logs.glob("*.log"))
    if service not in known:
        what = f"No log of {service!r}.{nearest(service, known)}" if service else "Which service?"
        raise NotFound(f"{what} There are: {', '.join(known) or 'none yet, `aios up` starts the stack'}.")
    for line in control.follow(layout.log(service), lines, follow):
        sys.stdout.write(line)
        sys.stdout.flush()


@click.command()
@common
def doctor() -> int:
    """What this machine lacks for the stack, each with its fix. Exit code 1 when it cannot start."""
    from aios.stack.doctor import examine

    found = examine(home(), os.environ)
    data = [vars(finding) for finding in found]
    rows = [
        [
            "ok" if one.good else "MISSING" if one.fatal else "note",
            one.what,
            one.seen,
            "" if one.good else one.fix,
        ]
        for one in found
    ]
    output.emit_data(data, rows, ["", "WHAT", "FOUND", "FIX"])
    return 1 if any(one.fatal and not one.good for one in found) else 0


def home() -> "Layout":
    """The home of this machine's stack."""
    from aios.config import Settings
    from aios.stack.layout import Layout

    return Layout(Settings.load().home)


def bring_up(layout: "Layout", timeout: float = READY_SECONDS) -> "StackState":
    """Start the stack unless it runs, and wait until it answers. Says what it does."""
    from aios.stack import control

    began = time.monotonic()
    running = control.is_running(layout)
    if not running:
        control.start(layout)
    with Bar() as bar:
        seen: set[str] = set()

        def show(state: "StackState") -> None:
            waited = {name: one for name, one in state.services.items() if name != "triton"}
            ready = [name for name, one in waited.items() if one.state == "ready"]
            for name in ready:
                if name not in seen and not running:
                    seen.add(name)
                    bar.say(f"  {name:<10} ready after {time.monotonic() - began:.1f} s")
            left = [f"{name} {one.state}" for name, one in waited.items() if name not in ready]
            if left:
                bar.update("starting", len(ready), len(waited), ", ".join(left))

        state = control.wait_ready(layout, timeout, show)
    if running:
        output.notice(f"AIOS is up at {state.address}.")
    else:
        output.notice(
            f"AIOS is up at {state.address} after {time.monotonic() - began:.1f} s. `aios down` stops it."
        )
    return state


def fit(layout: "Layout") -> bool:
    """Ask the doctor; say what is missing. Returns whether the stack can start."""
    from aios.stack.doctor import examine

    bad = [finding for finding in examine(layout, os.environ) if not finding.good and finding.fatal]
    for finding in bad:
        output.notice(f"Missing: {finding.what}: {finding.seen}. Fix: {finding.fix}.")
    return not bad


def _emit_status(state: "StackState", layout: "Layout") -> None:
    from rich.text import Text

    from aios.stack import control

    used = control.memory_bytes(state)
    services: dict[str, Any] = {
        name: {
            "state": str(one.state),
            "pid": one.pid or None,
            "restarts": one.restarts,
            "memoryBytes": used.get(name, 0),
            "message": one.message,
        }
        for name, one in state.services.items()
    }
    rows: list[list[object]] = [
        [
            name,
            Text(str(one["state"]), style=MARKS.get(str(one["state"]), "yellow")),
            one["pid"] or "",
            one["restarts"] or "",
            output.size(int(one["memoryBytes"])) if one["memoryBytes"] else "",
            one["message"],
        ]
        for name, one in services.items()
    ]
    data = {"address": state.address, "home": str(layout.home), "ready": state.ready, "services": services}
    output.emit_data(data, rows, ["SERVICE", "STATE", "PID", "RESTARTS", "MEMORY", "WHY"])
    if output.shared().output == "table":
        output.notice(f"{state.address} · {output.size(sum(used.values()))} of memory in all · {layout.home}")


def _reason(state: "StackState") -> str:
    return f" Last time: {state.message}" if state.message else ""
