"""`python -m tests.faults.supervisor`: the stack of `aios up`, with links between its parts and a second node.

The supervisor and its table are the product's own. What differs is where each process dials its neighbours
(AIOS_TEST_DIALS: JSON, service to settings) and that a second agent runs beside the first.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace

from aios.config import Settings
from aios.stack import ports, probes, secrets, state
from aios.stack.child import Service
from aios.stack.layout import Layout
from aios.stack.services import PORTS, environment, settings_of, table
from aios.stack.supervisor import Supervisor, clear_leftovers, hold

SECOND = "agent-b"
"""The agent of the second node; its home lies in this folder of the first one's."""


def services(layout: Layout, chosen: Mapping[str, int], given: Mapping[str, str]) -> list[Service]:
    """The product's table, with each service's neighbours behind links."""
    dials: Mapping[str, Mapping[str, str]] = json.loads(given.get("AIOS_TEST_DIALS", "{}"))
    settings = Settings.load(settings_of(chosen, layout.home, given))
    rows = table(settings, layout, chosen, given)
    [agent] = [row for row in rows if row.name == "agent"]
    own = {
        "AIOS_HOME": str(layout.home / SECOND),
        "AIOS_NODE": "b",
        "AIOS_TOKEN_FILE": str(layout.secrets / "agent.token"),
        "AIOS_SCHEDULER_PUBLIC_KEY_FILE": str(layout.secrets / "scheduler.pub"),
    }
    probe = probes.deadline(layout.home / SECOND / "agent" / "lease")
    rows.append(replace(agent, name=SECOND, probe=probe, environment={**agent.environment, **own}))
    return [replace(row, environment={**row.environment, **dials.get(row.name, {})}) for row in rows]


async def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    os.umask(0o077)
    layout = Layout(Settings.load().home)
    layout.make()
    given = os.environ
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with hold(layout):
        before = state.read(layout.state)
        clear_leftovers(before)
        secrets.prepare(layout)
        chosen = ports.choose(PORTS, before.ports, ports.asked(given), ports.claim, ports.claim_any)
        variables = settings_of(chosen, layout.home, given)
        supervisor = Supervisor(
            layout,
            services(layout, chosen, given),
            environment(variables, given),
            address=variables["AIOS_ADDRESS"],
            ports=chosen,
        )
        await supervisor.run(stop)


if __name__ == "__main__":
    asyncio.run(main())
