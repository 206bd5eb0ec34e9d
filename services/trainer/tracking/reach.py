"""What a job may say by MLflow's API: of its own run, and of the runs that it began itself."""

from aios.names import JobName, RunName
from aios.records import Tx
from aios.runtime.context import principal
from services.trainer import runs
from services.trainer import store as run_store
from services.trainer.runs import Run, RunNotFound
from services.trainer.tracking import logged_store
from services.trainer.tracking.logged import Logged, LoggedModelNotFound


def own_run() -> RunName | None:
    """The run that the caller is an attempt of; None where it is none."""
    caller = principal()
    if caller.role != "worker" or caller.job is None:
        return None
    job = JobName.parse(caller.job, "job")
    return RunName(job.project, job.job)


def own_of(tx: Tx) -> Run | None:
    """The same as it is stored; None for a job that is no run."""
    own = own_run()
    return None if own is None else run_store.of_job(tx, JobName(own.project, own.run))


def reach(tx: Tx, name: RunName) -> Run:
    """A run that the caller may write to.

    Raises:
        RunNotFound: there is none, or a job asks for one that is not its own.
        StaleEpoch, RunEnded: the job is not the newest attempt of its run, or that is over.
    """
    run, own, caller = run_store.get(tx, name), own_run(), principal()
    if own is not None:
        if name != own and run.creator != caller.job:
            raise RunNotFound(f"No run {name.run!r} of this job.", run=str(name))
        if (mine := own_of(tx)) is not None:
            runs.check_epoch(mine, caller.epoch or 0)
    return run


def reach_model(tx: Tx, project: str, model_id: str) -> Logged:
    """A logged model that the caller may write to: a job those of the runs that it reaches.

    Raises:
        LoggedModelNotFound: there is none, or a job asks for one of no run.
        RunNotFound: it is of a run that is not the job's.
    """
    found = logged_store.get(tx, project, model_id)
    if own_run() is not None:
        if not found.run:
            raise LoggedModelNotFound(f"No logged model {model_id!r} of this job.")
        reach(tx, RunName(project, found.run))
    return found
