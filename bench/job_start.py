"""What a sandbox adds to the start of a job: from the agent's order until its command has begun, with and without.

Attempts are started in turn by the same code as the agent's, so that both meet the same machine.

Then what a process that were warm beforehand could save: the processor time of the imports that each job begins with.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aios.config import Settings
from aios.scheduler.v1 import agent_service_pb2
from bench.report import Report
from services.scheduler.agent import bounds, isolation, sandbox
from services.scheduler.agent.directory import Directory
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec

TURNS = 40
ADDED_MILLIS_MAX = 50.0
LOOK_SECONDS = 0.001
IMPORT_TURNS = 5
IMPORTED = {
    "nothing": "",
    "job_of_a_command": "import services.trainer.job.command",
    "torch": "import torch",
    "job_of_a_recipe": "import services.trainer.job.command, services.trainer.recipes.image_classifier",
}
SPEC = JobSpec(("true",), Resources(1000, 1 << 30))


def main() -> None:
    """Start many of each kind; the middle of the differences of pairs is what it adds."""
    report = Report("job_start")
    found = isolation.find(isolation.REQUIRE)
    groups = bounds.find()
    added: list[float] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as folder:
        home = Path(folder)
        settings = Settings.load({"AIOS_HOME": folder})
        bare = sandbox.Node(settings, {}, home / "lease")
        whole = sandbox.Node(settings, {}, home / "lease", found, groups)
        for turn in range(TURNS):
            plain.append(_start(home, 2 * turn, bare))
            added.append(_start(home, 2 * turn + 1, whole) - plain[-1])
    report.figure("plain_ms_p50", 1000 * statistics.median(plain))
    report.bar("sandbox_added_ms_p50", 1000 * statistics.median(added), ADDED_MILLIS_MAX)
    report.figure("sandbox_added_ms_quarter", 1000 * statistics.quantiles(added)[0])
    for name, line in IMPORTED.items():
        report.figure(f"imports_{name}_cpu_ms", 1000 * min(_imports(line) for _ in range(IMPORT_TURNS)))
    report.finish()


def _imports(line: str) -> float:
    """Processor seconds of an interpreter that runs one line: on a busy machine, too, what it costs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", line], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _start(home: Path, number: int, node: sandbox.Node) -> float:
    """Seconds until the command has begun."""
    assignment = agent_service_pb2.AssignmentSpec(job="projects/p/jobs/j", epoch=number + 1)
    directory = Directory.make(home / "attempts", assignment)
    place = sandbox.Place(directory.path, assignment.job, assignment.epoch, "", {}, ())
    began = time.perf_counter()
    (directory.path / "hosts").write_text(isolation.hosts(isolation.doors(node.settings)))
    directory.write("launch", sandbox.launch(SPEC, place, node))
    shim = directory.start()
    while not directory.has("started") and not directory.has("exit"):
        time.sleep(LOOK_SECONDS)
    took = time.perf_counter() - began
    shim.wait()
    directory.remove()
    return took


if __name__ == "__main__":
    main()
