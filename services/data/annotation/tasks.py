"""The life of a label task: open, labelled or disputed, reviewed, accepted. Pure.

open ── enough labels that agree ──► labelled ── accept ──► accepted
 │ ▲                                   │  ▲ reopen: to open, from all of these
 │ └── a label or a skip               ▼
 └─── enough that do not agree, ──► disputed ── correct ──► reviewed ── accept ──► accepted
      or too many skips
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from aios.errors import Aborted, FailedPrecondition


class State(StrEnum):
    """How far a task is."""

    OPEN = "open"
    LABELLED = "labelled"
    DISPUTED = "disputed"
    REVIEWED = "reviewed"
    ACCEPTED = "accepted"


class Verdict(StrEnum):
    """What a reviewer decides."""

    CORRECT = "correct"
    ACCEPT = "accept"
    REOPEN = "reopen"


class LabelStateInvalid(FailedPrecondition):
    """The task's state does not allow that. Look at it again."""

    reason = "LABEL_STATE_INVALID"


class LabelLeaseLost(Aborted):
    """The lease ended and the task went to somebody else, or on. Take another one."""

    reason = "LABEL_LEASE_LOST"


@dataclass(frozen=True)
class Rules:
    """What a label project wants of its tasks."""

    overlap: int = 1
    agreement_min: float = 1.0
    skips_max: int = 3
    accept_agreed: bool = False


@dataclass(frozen=True)
class Progress:
    """Where a task is. `labels` and `skips` count those of the current round."""

    state: State = State.OPEN
    round: int = 1
    labels: int = 0
    skips: int = 0


def labelled(progress: Progress, agreement: float, rules: Rules) -> Progress:
    """One more person has labelled it.

    Args:
        agreement: Of all labels of the round, this one among them.

    Raises:
        LabelLeaseLost: nobody is asked any more.
    """
    _require_open(progress)
    more = replace(progress, labels=progress.labels + 1)
    if more.labels < rules.overlap:
        return more
    if agreement < rules.agreement_min:
        return replace(more, state=State.DISPUTED)
    return replace(more, state=State.ACCEPTED if rules.accept_agreed else State.LABELLED)


def skipped(progress: Progress, rules: Rules) -> Progress:
    """One more person has skipped it.

    Raises:
        LabelLeaseLost: nobody is asked any more.
    """
    _require_open(progress)
    more = replace(progress, skips=progress.skips + 1)
    return replace(more, state=State.DISPUTED) if more.skips >= rules.skips_max else more


def reviewed(progress: Progress, verdict: Verdict, *, label: bool, known: bool) -> Progress:
    """A reviewer has decided.

    Args:
        label: The reviewer gives one.
        known: The task has one.

    Raises:
        LabelStateInvalid: the verdict cannot be had of this state.
    """
    state = progress.state
    if verdict is Verdict.REOPEN and state is not State.OPEN:
        return Progress(State.OPEN, progress.round + 1)
    if verdict is Verdict.CORRECT and label and state not in (State.OPEN, State.ACCEPTED):
        return replace(progress, state=State.REVIEWED)
    # Of a dispute somebody has to say what is right.
    settled = label or (known and state is not State.DISPUTED)
    if verdict is Verdict.ACCEPT and settled and state not in (State.OPEN, State.ACCEPTED):
        return replace(progress, state=State.ACCEPTED)
    needs = "" if label or state in (State.OPEN, State.ACCEPTED) else " without a label"
    raise LabelStateInvalid(
        f"The task is {state}: it cannot be {_PAST[verdict]}{needs}.", state=state, verdict=verdict
    )


def resolved(progress: Progress, *, accept: bool) -> Progress:
    """A method has settled what people said.

    Raises:
        LabelStateInvalid: there is nothing to settle.
    """
    if progress.state not in (State.LABELLED, State.DISPUTED) or not progress.labels:
        raise LabelStateInvalid(
            f"The task is {progress.state}: nothing is to be settled.", state=progress.state
        )
    return replace(progress, state=State.ACCEPTED) if accept else progress


_PAST = {Verdict.CORRECT: "corrected", Verdict.ACCEPT: "accepted", Verdict.REOPEN: "reopened"}


def _require_open(progress: Progress) -> None:
    if progress.state is not State.OPEN:
        raise LabelLeaseLost(f"The task is {progress.state}: take another one.", state=progress.state)
