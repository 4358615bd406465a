"""Does a tool keep the promise of its effect class? Kill it at every await, and look.

The call is made on the real loop once for every place between its intent and its record; there its
owner is killed, and another one recovers as the class allows (`trials`). Then what happened to the
outside world and to the workspace is compared with a call that nobody killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent_runtime.errors import UsageError
from agent_runtime.ports.tools import ProbingTool, Tool
from agent_runtime.testing.trials import (
    Experiment,
    Observe,
    Reset,
    Trial,
    run_trial,
)
from agent_runtime.types import Effect, EffectPolicy, Json

PLACES_MAX = 200
"""Of a tool with more awaits than that, so many, evenly spread, are taken."""
SHOWN_MAX = 5
"""Changes that a fault shows."""
TRIAL_SECONDS = 30.0

PROMISES: Mapping[Effect, str] = {
    Effect.READ: "it changes nothing",
    Effect.WORKSPACE: "it changes only files in the workspace",
    Effect.IDEMPOTENT: "the same idempotency key takes effect once",
    Effect.PROBE: "its probe tells whether it happened",
    Effect.TASK: "the same call attaches to its task again",
    Effect.ONCE: "nothing, so it is never run again",
}
"""What each class promises; the table in the docs says it at more length."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a promise was broken; `place` is where the owner was killed, or empty."""

    place: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What was found out about one call of a tool. As text it is the message for its author."""

    tool: str
    effect: Effect
    """As declared for this call."""
    honest: Effect
    """The strictest class that held; `effect` itself if that did."""
    places: tuple[str, ...]
    """Where its owner was killed, in order."""
    faults: tuple[Fault, ...]

    @property
    def holds(self) -> bool:
        """Did the declared class hold everywhere?"""
        return not self.faults

    def __str__(self) -> str:
        if self.holds:
            return f"tool {self.tool!r} is {self.effect}: held at {len(self.places)} crash points"
        first, *others = self.faults
        more = f" ({len(others)} more crash points broke it too)" if others else ""
        return (
            f"tool {self.tool!r} is declared {self.effect} ({PROMISES[self.effect]}), and that "
            f"does not hold: {first.message}{more}. An honest class for this call: {self.honest}"
        )


async def check_effect(
    tool: Tool | Callable[[], Tool],
    arguments: Mapping[str, Json],
    *,
    observe: Observe,
    reset: Reset | None = None,
    files: Mapping[str, str] = {},
    seconds: float = TRIAL_SECONDS,
) -> Grade:
    """`grade_effect`, and an `AssertionError` with the reason if the declared class does not hold.

    This is the line for a plug-in's test.
    """
    grade = await grade_effect(
        tool, arguments, observe=observe, reset=reset, files=files, seconds=seconds
    )
    if not grade.holds:
        raise AssertionError(str(grade))
    return grade


async def grade_effect(
    tool: Tool | Callable[[], Tool],
    arguments: Mapping[str, Json],
    *,
    observe: Observe,
    reset: Reset | None = None,
    files: Mapping[str, str] = {},
    seconds: float = TRIAL_SECONDS,
) -> Grade:
    """Make this call again and again, kill it at every await, and grade its declared effect.

    `tool` may be a function that makes one: each owner then has a tool of its own, as another
    process would. `observe()` reads the outside world and best returns one item for each effect
    (the requests a fake server took, the rows of a table), so that a repetition is seen; a number,
    a text (its lines) and numbers by name are counted, too. `reset()` puts that world back before
    each call; it is needed only if a second call changes less than the first. Both may be async.
    `files` are in the workspace at the start (path -> text). `seconds` is the deadline of one
    trial.

    The tool runs in this process, also a worker's; time is real. Its effects do happen, about
    ten times and more: `observe` a fake of the world, not the world.

    Raises:
        UsageError: nothing can be learnt like this: the arguments are wrong, the call fails, its
            effect differs from call to call, or a trial did not end in time.
    """
    experiment = Experiment(
        tool=tool,
        arguments=arguments,
        observe=observe,
        reset=reset,
        files=files,
        seconds=seconds,
    )
    one = experiment.owners_tool()
    declared = one.effect(arguments, EffectPolicy())
    expected = await _reference(experiment, one.name)
    faults, places = await _faults(experiment, declared, expected)
    honest = declared
    if faults:
        for honest in _candidates(one):
            if honest is not declared and not (await _faults(experiment, honest, expected))[0]:
                break
    return Grade(
        tool=one.name,
        effect=declared,
        honest=honest,
        places=tuple(places),
        faults=tuple(faults),
    )


def _candidates(tool: Tool) -> list[Effect]:
    """Strictest first. `once` promises nothing, so it ends every search."""
    daemon = tool.where == "daemon"
    classes = [Effect.READ] + [Effect.WORKSPACE] * (not daemon) + [Effect.IDEMPOTENT]
    return classes + [Effect.PROBE] * (daemon and isinstance(tool, ProbingTool)) + [Effect.ONCE]


@dataclass(frozen=True, slots=True)
class _Expected:
    """A call that nobody killed."""

    trial: Trial
    files_vary: bool
    """Its files differ from call to call (a time stamp, say): only their names are compared."""
    base: Mapping[str, str]


async def _reference(experiment: Experiment, name: str) -> _Expected:
    first, second = await run_trial(experiment), await run_trial(experiment)
    for trial in (first, second):
        if trial.returned is None or not trial.returned.ok:
            found = trial.returned
            answer = trial.reason if found is None else f"{found.kind}: {found.output}"
            raise UsageError(
                f"tool {name!r} cannot be graded with {dict(experiment.arguments)!r}: the call "
                f"must succeed when nobody kills it, and did not ({answer})"
            )
    if first.changes != second.changes:
        raise UsageError(
            f"tool {name!r} cannot be graded: its first call changed {first.changes} of what "
            f"observe() sees and its second call {second.changes}; give a reset= that puts the "
            "world back as it was before the first"
        )
    base = {path: f"- {text.encode().decode('latin-1')}" for path, text in experiment.files.items()}
    return _Expected(second, first.files != second.files, base)


async def _faults(
    experiment: Experiment, effect: Effect, expected: _Expected
) -> tuple[list[Fault], list[str]]:
    """What breaks `effect`, and where the call was killed to find that out."""
    faults = _faults_of_any_call(effect, expected)
    if faults:
        return faults, []
    possible = len(expected.trial.places)
    step = max(1, -(-possible // PLACES_MAX))
    killed: list[Trial] = []
    for at in range(0, possible, step):
        trial = await run_trial(experiment, effect=effect, kill_at=at)
        if not trial.killed:
            break  # this time it was through before it got there
        killed.append(trial)
        if why := _broken_by(trial, expected):
            faults.append(Fault(trial.killed, f"killed {trial.killed}, {why}"))
    resolutions = {trial.resolution for trial in killed if trial.resolution}
    if effect is Effect.PROBE and resolutions == {"unknown"}:
        why = "its probe could not tell at any crash point (only a daemon tool's is asked)"
        faults.append(Fault("", why))
    return faults, [trial.killed for trial in killed]


def _faults_of_any_call(effect: Effect, expected: _Expected) -> list[Fault]:
    """What needs no crash to be seen."""
    trial = expected.trial
    written = _paths(expected.base, trial.files)
    if effect in (Effect.READ, Effect.WORKSPACE) and trial.changes:
        return [Fault("", f"without any crash it changed the outside world: {_shown(trial)}")]
    if effect is Effect.READ and written:
        return [Fault("", f"without any crash it changed the workspace: {_listed(written)}")]
    if effect not in (Effect.READ, Effect.WORKSPACE) and not (trial.changes or written):
        return [Fault("", "it changed nothing that observe() sees; look where the tool works")]
    return []


def _broken_by(trial: Trial, expected: _Expected) -> str:
    """How a recovered call differs from one that nobody killed; empty if it does not."""
    whole, after = expected.trial.changes, _after(trial.resolution)
    if trial.changes > whole:
        twice = Counter({k: n for k, n in trial.added.items() if n > expected.trial.added[k]})
        what = "saw it twice" if twice else "saw more than one call's effect"
        return f"{after}: the outside world {what}: {_shown(trial)} ({whole} expected)"
    if trial.resolution == "unknown":
        return ""  # it may have happened or not, and that is what is said
    if trial.changes < whole:
        saw = _shown(trial) if trial.changes else "nothing"
        return f"{after}: the outside world saw {saw} ({whole} expected)"
    if expected.files_vary:
        wrong = sorted(
            set(_paths(expected.base, trial.files))
            ^ set(_paths(expected.base, expected.trial.files))
        )
    else:
        wrong = _paths(expected.trial.files, trial.files)
    if wrong:
        return f"{after}: the workspace is not as after one call: {_listed(wrong)}"
    if trial.returned is not None and not trial.returned.ok:
        return f"{after} and failed, {trial.returned.kind}: {trial.returned.output}"
    return ""


def _after(resolution: str) -> str:
    match resolution:
        case "rerun":
            return "it ran again"
        case "happened":
            return "its probe said that it had happened"
        case "unknown":
            return "it was reported as unknown"
        case _:
            return "its owner's successor went on"


def _paths(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))


def _shown(trial: Trial) -> str:
    items = [f"+ {text}" for text in trial.added.elements()]
    items += [f"- {text}" for text in trial.removed.elements()]
    return _listed(items)


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN_MAX} more" if len(items) > SHOWN_MAX else ""
    return ", ".join(items[:SHOWN_MAX]) + more
