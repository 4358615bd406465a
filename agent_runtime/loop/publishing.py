"""The way of the proven branch out of the daemon: prepared, pushed, and a pull request opened.

Pure. It begins when a task with `publish` has succeeded, or when somebody asks for it afterwards,
and stands between that end and the clean-up. Pushing and opening are effects of the class *probe*:
the intent is stored first, whoever does it looks whether it is there already, and so killed
anywhere there is one branch and one pull request. What cannot be published changes nothing about
the result: the task has its branch and its certificate, and its reason says what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

import msgspec

from agent_runtime.loop import events as e
from agent_runtime.loop.grades import accepts
from agent_runtime.loop.state import Publication, State
from agent_runtime.types import Phase, Status

TRIES = 6
"""Of one step, while what goes wrong may pass."""
DELAY_MS = 2_000
"""Before the second try; doubled before each further one, so about a minute in all."""
RETRY_AFTER_MS_MAX = 600_000
"""Of what a forge asks for; longer than that is no answer to wait for."""
MOVES_MAX = 5
"""How often the base may move while the checks run on it."""
CRASHES_MAX = 100
"""Owners that may die without any progress: then the step itself kills them."""
TIMER = "publish:"

replace = msgspec.structs.replace


@dataclass(frozen=True, slots=True)
class PreparePublication:
    """Make the commit on the remote's base; check it again if that is another base."""

    attempt: int

    @property
    def key(self) -> str:
        return f"publish:prepare:{self.attempt}"


@dataclass(frozen=True, slots=True)
class Publish:
    """Look whether the intended step is done, and do it if not."""

    what: e.PublicationStep
    attempt: int

    @property
    def key(self) -> str:
        return f"publish:{self.what}:{self.attempt}"


def goes_on(state: State) -> bool:
    """Is there a branch on its way out?"""
    return state.publication is not None and state.publication.ended is None


def next_actions(state: State) -> tuple[PreparePublication | Publish, ...]:
    """The one thing to do; nothing while it waits for its next try."""
    publication = state.publication
    assert publication is not None
    if publication.timer:
        return ()
    attempt = publication.attempts + publication.moves
    if publication.prepared is None:
        return (PreparePublication(attempt),)
    what = _next_step(publication)
    return (Publish(what, attempt),) if what and publication.intended == what else ()


def settle(state: State) -> tuple[e.PublicationIntended | e.PublicationEnded, ...]:
    """The next decision that needs no outcome, or nothing."""
    publication = state.publication
    if publication is None or publication.ended is not None or publication.timer:
        return ()
    if publication.failure is not None:
        tried = _WORDS[publication.failure.what]
        return (_given_up(f"{tried}: {publication.failure.message}"),)
    if state.crashes >= CRASHES_MAX:
        return (_given_up(f"crash_loop: {state.crashes} owners died at it"),)
    if publication.prepared is None:
        return ()
    if why := _not_proven(state, publication.prepared):
        return (_given_up(why),)
    what = _next_step(publication)
    if what is None:
        return (e.PublicationEnded(ok=True),)
    return () if publication.intended else (e.PublicationIntended(what=what),)


_WORDS = {
    "prepare": "the commit could not be made",
    "push": "the branch could not be pushed",
    "pull_request": "the branch is pushed, and its pull request could not be opened",
}


def _next_step(publication: Publication) -> e.PublicationStep | None:
    if publication.pushed is None:
        return "push"
    if publication.opened is None and publication.spec.pr != "none":
        return "pull_request"
    return None


def _given_up(reason: str) -> e.PublicationEnded:
    return e.PublicationEnded(ok=False, reason=reason)


def _not_proven(state: State, prepared: e.PublicationPrepared) -> str:
    """Why the commit on a base that has moved may not leave; empty if it may."""
    found = prepared.verification
    if found is None:
        return ""
    at = f"unverified on {prepared.base} as it is now ({prepared.base_commit[:12]})"
    if found.protected_changed:
        return f"{at}: protected_file_changed: {', '.join(found.protected_changed)}"
    if found.suspects:
        return f"{at}: reaches_for_the_test_runner: {', '.join(found.suspects)}"
    if not found.checks:
        return f"{at}: {found.message or 'there is no check'}"
    if failing := [check for check in found.checks if not check.ok]:
        return f"{at}: check_failed: " + "; ".join(f"{c.id} ({c.reason})" for c in failing)
    if not found.ok or not accepts(state.task.accept, found.grade):
        return f"{at}: every check passed, and that is {found.grade or 'not graded'} there; the " \
               f"task accepts {state.task.accept}"  # fmt: skip
    return ""


def is_awaited(
    state: State, outcome: e.PublicationPrepared | e.PublicationDone | e.PublicationFailed
) -> bool:
    """Does the present step still wait for it?"""
    publication = state.publication
    if publication is None or publication.ended is not None:
        return False
    match outcome:
        case e.PublicationPrepared():
            return publication.prepared is None
        case e.PublicationDone(what=what):
            return publication.intended == what
        case e.PublicationFailed(what="prepare"):
            return publication.prepared is None
        case e.PublicationFailed(what=what):
            return publication.intended == what
        case _:
            assert_never(outcome)


def commit_message(state: State) -> str:
    """What the commit of a result says: the goal, and whose work it is."""
    goal = state.task.goal.strip()
    first, _, rest = goal.partition("\n")
    subject = first if len(first) <= 72 else f"{first[:71]}…"
    body = goal if subject != first else rest.strip()
    parts = [subject, *([body] if body else []), f"Agent-Runtime-Task: {state.task_id}"]
    return "\n\n".join(parts) + "\n"


# ---- the fold ----------------------------------------------------------------------------


def first(state: State, event: e.TaskConcluded) -> Publication | None:
    """What the task's file asks for, once it has succeeded."""
    if event.status is not Status.SUCCEEDED or state.task.publish is None:
        return None
    return Publication(state.task.publish)


def requested(event: e.PublicationRequested) -> dict[str, Any]:
    """What `PublicationRequested` changes: the task is open again, at its very end."""
    return {
        "publication": Publication(event.publish),
        "ended": False,
        "alive": False,
        "crashes": 0,
        "stage": Phase.STATE_CLEANUP,
    }


def prepared(state: State, event: e.PublicationPrepared) -> dict[str, Any]:
    """From here on the commit may be found out there."""
    known = state.published
    return {
        **_changed(state, prepared=event, attempts=0, intended=""),
        "published": known if event.commit in known else (*known, event.commit),
        "crashes": 0,
    }


def folded(
    state: State,
    event: e.PublicationIntended | e.PublicationDone | e.PublicationFailed | e.PublicationEnded,
) -> dict[str, Any]:
    """What an event about the present step changes."""
    match event:
        case e.PublicationIntended(what=what):
            return _changed(state, intended=what, attempts=0)
        case e.PublicationDone(what=what):
            done = {"pushed" if what == "push" else "opened": event}
            return {**_changed(state, intended="", attempts=0, **done), "crashes": 0}
        case e.PublicationFailed():
            return {**_failed(state, event), "crashes": 0}
        case e.PublicationEnded():
            return _changed(state, ended=event, intended="")
        case _:
            assert_never(event)


def woken(state: State) -> dict[str, Any]:
    """The wait before the next try is over."""
    return _changed(state, timer="", delay_ms=0)


def _failed(state: State, event: e.PublicationFailed) -> dict[str, Any]:
    publication = state.publication
    assert publication is not None
    attempts, moves = publication.attempts + 1, publication.moves + event.moved
    if event.moved and moves <= MOVES_MAX:
        return _changed(state, prepared=None, intended="", moves=moves)
    # Bounded first: what a forge asks for may be more than any number of milliseconds.
    asked_ms = int(min(event.retry_after_seconds or 0.0, RETRY_AFTER_MS_MAX) * 1000)
    passes = event.kind == "transient" and not event.moved and asked_ms <= RETRY_AFTER_MS_MAX
    if not passes or attempts >= TRIES:
        return _changed(state, failure=event, attempts=attempts, moves=moves)
    delay_ms = max(DELAY_MS << (attempts - 1), asked_ms)
    timer = f"{TIMER}{state.seq + 1}"
    return _changed(state, attempts=attempts, timer=timer, delay_ms=delay_ms)


def _changed(state: State, **changes: Any) -> dict[str, Any]:
    assert state.publication is not None
    return {"publication": replace(state.publication, **changes)}
