"""What a job may say by MLflow's API: of its own run, and of the runs that it began itself."""

from aios.names import JobName, RunName
from aios.records import Tx
from aios.runtime.context import principal
from services.trainer import store as run_store
from services.trainer.runs import Run, RunNotFound


def own_run() -> RunName | None:
    """The run that the caller is an attempt of; None where it is none."""
    caller = principal()
    if caller.role != "worker" or caller.job is None:
        return None
    job = JobName.parse(caller.job, "job")
    return RunName(job.project, job.job)


def reach(tx: Tx, name: RunName) -> Run:
    """A run that the caller may write to.

    Raises:
        RunNotFound: there is none, or a job asks for one that is not its own.
    """
    run, own = run_store.get(tx, name), own_run()
    if own is not None and name != own and run.creator != principal().job:
        raise RunNotFound(f"No run {name.run!r} of this job.", run=str(name))
    return run
