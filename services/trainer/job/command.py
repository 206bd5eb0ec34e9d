"""A command of the caller's own as a run: it imports nothing of ours and speaks by its environment, files and signals.

    AIOS_RUN_ID AIOS_RUN_ATTEMPT AIOS_SEED       which run, which attempt of it (from 1), the seed
    AIOS_HPARAMS                                 hyperparameters as JSON
    AIOS_DATA_DIR AIOS_DATA_{NAME}               folders with the run's dataset versions
    AIOS_CHECKPOINT_DIR                          what it leaves here is kept, and there again after a restart
    AIOS_METRICS_FILE                            it appends lines such as {"step": 10, "loss": 0.3}
    AIOS_OUTPUT_DIR                              what it leaves here is kept once it ends with 0
    MLFLOW_*                                     what it logs by MLflow's client is the run's
    TRACEPARENT OTEL_*                           spans it sends join the run's trace

SIGTERM means: save and leave. Exit code 0 means done, whatever was asked; all others are the run's own.
"""

import json
import os
import shutil
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from google.protobuf.json_format import MessageToJson

from aios.code import ARCHIVE, unpack
from aios.config import Settings
from aios.errors import InvalidArgument
from aios.runtime import telemetry
from aios.runtime.token_files import token_file
from aios.train import Run, mlflow
from aios.train.ranks import SPEC
from services.trainer.job import outputs
from services.trainer.job.folders import CheckpointFolder, MetricsFile
from services.trainer.job.gang import Gang
from services.trainer.job.launcher import Plan, Processes
from services.trainer.job.tensorboard import EventFiles

LOOK_SECONDS = 0.1
METRICS_MAX = 200  # figures of one model version
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells have it


def train(run: Run, gang: Gang | None = None) -> int:
    """Run the command to its end; returns its exit code, 128 + n when signal n ended it.

    Args:
        gang: This replica, where the run has several. The first one alone keeps what the command leaves.
    """
    root = run.folder("command")
    code, checkpoint_dir, output_dir = root / "code", root / "checkpoints", root / "outputs"
    output_dir.mkdir()
    with run.phase("load data"):
        environment = _data(run)
        if run.spec.code:
            unpack(run.files("code") / ARCHIVE, code)
        code.mkdir(exist_ok=True)
    found = run.restore()
    if found is None:
        checkpoint_dir.mkdir()
    else:
        shutil.move(found.folder, checkpoint_dir)
        environment["AIOS_RESTORED_CHECKPOINT"] = found.name
        print(f"aios: restored the checkpoint of step {found.step}", flush=True)
    metrics = MetricsFile(root / "metrics.jsonl", run)
    checkpoints = CheckpointFolder(checkpoint_dir, run, found.step if found else 0)

    spec = root / "spec.json"
    spec.write_text(MessageToJson(run.spec))

    run.progress("train")
    with telemetry.span("command", attributes={"aios.command": run.spec.command[0]}):
        environment |= {
            "AIOS_CHECKPOINT_DIR": str(checkpoint_dir),
            "AIOS_OUTPUT_DIR": str(output_dir),
            "AIOS_METRICS_FILE": str(metrics.path),
            SPEC: str(spec),
            **_identity(run),
            **_python_path(run, root),
        }
        try:
            processes = Processes(
                run.spec.command,
                code,
                {**os.environ, **run.spec.environment, **environment},
                _plan(run, gang),
                root / "beats",
            )
        except OSError as error:
            print(f"aios: cannot start {run.spec.command[0]!r}: {error.strerror}", file=sys.stderr)
            return NOT_EXECUTABLE if isinstance(error, PermissionError) else NOT_FOUND
        events = EventFiles([code, output_dir], metrics.take)
        status = _follow(run, processes, metrics, events, checkpoints)
    if status == 0 and (gang is None or gang.rank == 0):
        status = _complete(run, output_dir, metrics)
    return 128 - status if status < 0 else status


def _follow(
    run: Run, processes: Processes, metrics: MetricsFile, events: EventFiles, checkpoints: CheckpointFolder
) -> int:
    """Until it has ended: carry its metrics and checkpoints away, and the wish to stop to it."""
    saving: Future[None] | None = None
    told = False
    with ThreadPoolExecutor(1, thread_name_prefix="aios-checkpoint") as uploads:
        try:
            while (status := processes.poll()) is None:
                metrics.read()
                events.read()
                if run.stopping and not told:
                    told = True
                    processes.ask()
                if saving is not None and saving.done():
                    saving.result()
                    saving = None
                if saving is None and checkpoints.settled(processes.leaders):
                    saving = uploads.submit(checkpoints.save, metrics.step)
                time.sleep(LOOK_SECONDS)
        finally:
            processes.kill()
    if saving is not None:
        saving.result()
    metrics.read(to_the_end=True)
    events.read(to_the_end=True)
    if status != 0:
        # One that was asked to leave and did had finished writing; one that failed or was killed may not have.
        checkpoints.save_last(metrics.step, whole=told and status > 0)
    return status


def _plan(run: Run, gang: Gang | None) -> Plan:
    hang = run.spec.hang_timeout.ToTimedelta().total_seconds()
    return Plan(run.spec.processes, hang, run.spec.resources.cpu_millis / 1000, gang=gang)


def _complete(run: Run, folder: Path, metrics: MetricsFile) -> int:
    """Hand over what it left. Exit code 0, or 1 where the model that the run is to register is not there."""
    signature = None
    if run.spec.model:
        try:
            signature = outputs.signature_of(folder)
        except outputs.NoModel as error:
            if not _completed_by_itself(run):
                print(f"aios: the run registers {run.spec.model!r}, but {error.message}", file=sys.stderr)
                return 1
    left = folder if any(path.is_file() for path in folder.rglob("*")) else None
    with run.phase("keep outputs"):
        version = run.complete(
            left if signature is not None else None,
            signature,
            dict(sorted(metrics.last.items())[:METRICS_MAX]),
            None if signature is not None else left,
        )
    if version:
        print(f"aios: registered {version}", flush=True)
    return 0


def _completed_by_itself(run: Run) -> bool:
    """Whether a command that uses the SDK has handed its result over already."""
    try:
        run.complete()
    except InvalidArgument:
        return False
    return True


def _data(run: Run) -> dict[str, str]:
    named = {key: f"AIOS_DATA_{key.upper()}" for key in run.spec.datasets}
    found = {variable: str(run.files(key)) for key, variable in named.items()}
    if run.spec.dataset:
        found["AIOS_DATA_DIR"] = str(run.files())
    return found


def _python_path(run: Run, root: Path) -> dict[str, str]:
    """With packages of its own, Python finds beside them how MLflow's client has the job's token."""
    if not run.spec.requirements:
        return {}
    given = run.spec.environment.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [given, str(mlflow.plant(root / "python"))]))}


def _identity(run: Run) -> dict[str, str]:
    """Who it is, and where its spans go."""
    settings = Settings.load()
    run_id = run.name.rpartition("/")[2]
    found = {
        "AIOS_RUN_ID": run_id,
        "AIOS_RUN_ATTEMPT": os.environ["AIOS_EPOCH"],
        "AIOS_SEED": str(run.seed),
        "AIOS_HPARAMS": json.dumps(dict(run.hparams)),
    }
    if settings.token_file is None:
        return found
    secret = token_file(settings.token_file)()
    found |= {
        "MLFLOW_TRACKING_URI": settings.address,
        "MLFLOW_TRACKING_AUTH": mlflow.NAME,  # which reads the token anew at each call
        "MLFLOW_TRACKING_TOKEN": secret,  # for an interpreter that neither finds
    }
    if settings.telemetry:
        found |= {
            "TRACEPARENT": telemetry.current_traceparent(),
            "OTEL_EXPORTER_OTLP_ENDPOINT": settings.otlp_endpoint or settings.address,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={quote(f'Bearer {secret}')}",
            "OTEL_SERVICE_NAME": run_id,
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        }
    return found
