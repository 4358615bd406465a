"""What a reviewer wants to know of a task on one page: a fold of its log and its patch.

This file decides what is told; `report_page` how it looks as Markdown and as HTML. Everything that
a task, a tool or a person wrote is a `Quote` here, so that no page can take it for markup.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from agent_runtime.loop import events as e
from agent_runtime.loop.grades import REGRESSION_ONLY, SELF_CHOSEN
from agent_runtime.loop.reached import away_words, connection_words, reason_of
from agent_runtime.loop.state import State, status_of
from agent_runtime.manifests import is_manifest
from agent_runtime.patches import FileChange, file_changes
from agent_runtime.types import Row, Status, StepStatus
from agent_runtime.verdicts import few

GOAL_CHARS_MAX = 4000
QUOTE_CHARS_MAX = 300
ITEMS_MAX = 50
"""Of one list: a report is a page."""


@dataclass(frozen=True, slots=True)
class Quote:
    """Text that somebody else wrote, without control characters: shown, and obeyed by nobody."""

    text: str


Item = tuple[str | Quote, ...]
"""One line: our own words, which hold no markup, and quotes."""


@dataclass(frozen=True, slots=True)
class Section:
    """A headed list. `warns`: a reader must not miss it."""

    title: str
    items: tuple[Item, ...]
    warns: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """The whole page. `goal` may have several lines."""

    title: str
    status: str
    good: bool
    goal: Quote
    sections: tuple[Section, ...]


def report_of(
    state: State, rows: Sequence[Row], events: Sequence[e.AnyEvent], patch: bytes | None
) -> Report:
    """The report of a task as far as it is; `patch` is the verified one, None if there is none.

    `rows` and `events` are the whole log, `state` its fold.
    """
    status, reason = status_of(state)
    log = [(row.at_us, event) for row, event in zip(rows, events, strict=True)]
    sections = [
        Section("Result", _result(state, status, reason, events)),
        Section("What changed", _changed(state, events, patch)),
        Section("Why: the plan", _plan(state, events)),
        Section("What did not go as planned", tuple(_turns(events))),
        Section("Checks", _checks(state, events)),
        Section("Not checked", _not_checked(state, events), warns=True),
        Section("Artifacts", _artifacts(state)),
        Section("Unknown effects", _unknown(state), warns=bool(state.unknown)),
        Section("Approvals and messages", _people(log)),
        Section("Network", _network(state, events)),
        Section("Cost", _cost(state, log)),
        Section("Verify and apply", _next(state, status, rows)),
    ]
    return Report(
        title=visible(state.task_id),
        status=status,
        good=status is Status.SUCCEEDED,
        goal=Quote(visible(_cut(state.task.goal.strip(), GOAL_CHARS_MAX), keep="\n\t")),
        sections=tuple(
            Section(s.title, _few(s.items) or (("none",),), warns=s.warns) for s in sections
        ),
    )


# ---- sections ----------------------------------------------------------------------------


def _result(
    state: State, status: Status, reason: str, events: Sequence[e.AnyEvent]
) -> tuple[Item, ...]:
    items: list[Item] = [(f"status: {status}", *((": ", _prose(reason)) if reason else ()))]
    for number, run in enumerate(state.earlier, 1):
        status_then, why = run.conclusion.status, _prose(run.conclusion.reason)
        items.append((f"superseded, run {number}: {status_then}, ", why, "; it was continued"))
    if (fork := state.forked) is not None:
        other = f", with another {', another '.join(fork.replaced)}" if fork.replaced else ""
        items.append(("forked from ", quote(fork.parent), f" at event {fork.at}{other}"))
    if not state.ended:
        items.append(("the task has not ended: this report tells what is known up to now",))
    if state.conclusion is not None and state.cleaned is not None:
        items += [("not cleaned up: ", _prose(text)) for text in state.cleaned.problems]
    items += _published(state)
    if state.workspace is not None and state.workspace.base_commit:
        items.append(("started from commit ", quote(state.workspace.base_commit)))
    if kinds := [kind for kind in _sandboxes(state, events) if kind]:
        items.append(("sandbox of tools and checks: ", quote(", ".join(kinds))))
    if state.exhausted is not None:
        limit = state.exhausted
        items.append((f"limit reached: {limit.limit}, {limit.used:g} of {limit.allowed:g}",))
    return tuple(items)


def _published(state: State) -> Iterator[Item]:
    publication = state.publication
    if publication is None or (told := publication.prepared) is None:
        return
    yield (
        "published as ", quote(told.commit), " on ", quote(told.base or "no base"), " at ",
        quote(told.base_commit or "no commit"), ", branch ", quote(told.branch), " of ",
        quote(told.url),
    )  # fmt: skip
    if (found := told.verification) is not None:
        how = "passed" if found.ok else "FAILED"
        yield (f"that base is not what the task began from: its checks ran again there and {how}",)
    if publication.ended is not None and not publication.ended.ok:
        yield ("not published: ", _prose(publication.ended.reason))


def _changed(state: State, events: Sequence[e.AnyEvent], patch: bytes | None) -> tuple[Item, ...]:
    if patch is not None:
        return tuple(_file_item(change) for change in file_changes(patch))
    paths = dict.fromkeys(
        path for event in events if isinstance(event, e.CallReturned) for path in event.changed
    )
    if not paths:
        return ()
    note: Item = ("nothing was verified: these files were written to, if only for a while",)
    return (note, *((quote(path),) for path in paths))


def _file_item(change: FileChange) -> Item:
    size = f"+{change.added} -{change.removed}"
    if change.binary:
        size = "binary" if change.bytes is None else f"binary, {change.bytes} bytes"
    return (quote(change.path), f": {change.kind}, {size}")


def _plan(state: State, events: Sequence[e.AnyEvent]) -> tuple[Item, ...]:
    step_of = {i.call_id: i.step_id for i in events if isinstance(i, e.CallIntended)}
    written: dict[str, dict[str, None]] = {}
    for event in events:
        if isinstance(event, e.CallReturned) and event.call_id in step_of:
            written.setdefault(step_of[event.call_id], {}).update(dict.fromkeys(event.changed))
    items: list[Item] = []
    for step_id, step in state.steps.items():
        parts: list[str | Quote] = ["step ", quote(step_id), f": {step.status}"]
        if step.spec.tool is not None:
            parts += [", tool ", quote(step.spec.tool)]
        if step.spec.goal:
            parts += [", goal ", _prose(step.spec.goal)]
        if step.attempt > 1:
            parts.append(f", {step.attempt} attempts")
        if step.alternative:
            parts.append(", done another way")
        if step.status is StepStatus.READY and not step.awake:
            parts.append(" (a fallback that was not needed)")
        if paths := list(written.get(step_id, {})):
            parts += [", wrote ", quote(", ".join(paths))]
        items.append(tuple(parts))
    return tuple(items)


def _turns(events: Sequence[e.AnyEvent]) -> Iterator[Item]:
    """Failures, recovery and new owners, in order."""
    owners = 0
    for event in events:
        match event:
            case e.LeaseTaken():
                owners += 1
                if owners > 1:
                    yield ("driven on by owner number ", quote(str(event.epoch)))
            case e.Continued():
                owners = 0
            case e.RecoveryChosen():
                what = ("step ", quote(event.step_id)) if event.step_id else ("the task",)
                why = _prose(event.reason or event.kind)
                yield ("recovery of ", *what, f": {event.strategy}, because ", why)
            case e.StepFailed():
                instead = ("; in its place ", quote(event.fallback)) if event.fallback else ()
                yield ("step ", quote(event.step_id), " failed: ", _prose(event.reason), *instead)
            case e.StepSkipped():
                yield ("step ", quote(event.step_id), " was skipped: ", _prose(event.reason))
            case e.CallResolved():
                yield (
                    "call ", quote(event.call_id),
                    f" had no result: {_RESOLUTIONS[event.resolution]}",
                )  # fmt: skip
            case e.ReplanRequested():
                yield ("planned again: ", _prose(event.reason))
            case e.PublicationFailed():
                yield (f"publishing ({event.what}) failed: ", _prose(event.message))
            case e.InitiationFailed() | e.ToolbeltFailed():
                yield ("could not be started: ", _prose(event.message))
            case _:
                pass


_RESOLUTIONS = {
    "rerun": "rolled back where needed, it ran again",
    "dropped": "undone, and not run again",
    "happened": "a look showed that it happened",
    "not_happened": "a look showed that it did not happen",
    "unknown": "nobody can tell whether it happened",
}


def _checks(state: State, events: Sequence[e.AnyEvent]) -> tuple[Item, ...]:
    found = state.verification
    items = [i for c in found.checks for i in (_check(c), *_tests(c))] if found is not None else []
    if found is not None and found.grade:
        items.append(("grade: ", quote(found.grade)))
    if found is not None and found.message:
        items.append(("verification: ", _prose(found.message)))
    failed = [event for event in events if isinstance(event, e.VerificationEnded) and not event.ok]
    earlier = len([event for event in failed if event is not found])
    if earlier:
        items.append((f"verifications that failed before this one: {earlier}",))
    return tuple(items)


def _check(check: e.CheckResult) -> Item:
    before = "not run" if check.before is None else _outcome(check.before, check.expected_exit)
    after = _outcome(check, check.expected_exit)
    if check.passed is not None and check.min_passed is not None:
        after += f" of at least {check.min_passed}"
    return (
        "check ",
        quote(check.id),
        f": {'ok' if check.ok else 'NOT ok'}, before the work: {before}; after: {after}",
        *((f"; FLAKY: {FLAKY_WORDS}",) if check.flaky else ()),
        *(("; chosen by whoever did the work",) if check.origin != "given" else ()),
        *((" (", _prose(check.reason), ")") if check.reason and not check.ok else ()),
        "; command ",
        quote(_command(check.command)),
    )


FLAKY_WORDS = "on the same tree it ends now well and now not, or fails for other tests"


def _tests(check: e.CheckResult) -> Iterator[Item]:
    """What became of the single tests of a check."""
    compared = check.compared
    if compared is None:
        return
    for tests, words in (
        (compared.mended, "failed before the work and pass now"),
        (compared.lost, "LOST, gone or without a verdict now"),
        (compared.broken, "passed before the work and fail now"),
        (compared.unstable, "UNSTABLE, came out differently in two looks at the same tree"),
        (compared.added, "were not there before"),
    ):
        if tests.count:
            names = quote(few(tests.names, tests.count))
            yield ("tests of ", quote(check.id), f", {tests.count} {words}: ", names)


def _outcome(ended: e.CheckResult | e.Baseline, expected_exit: int) -> str:
    said = f"exit {ended.exit}"
    if ended.exit != expected_exit:
        said += f" (expected {expected_exit})"
    if ended.passed is not None:
        said += f", {ended.passed} passed"
        if ended.ran is not None and ended.ran != ended.passed:
            said += f" of {ended.ran} that ran"
    return said


def _not_checked(state: State, events: Sequence[e.AnyEvent]) -> tuple[Item, ...]:
    """Everything that the result does not stand on. Long, because it is the one place."""
    items: list[Item] = []
    found = state.verification
    if not state.task.objectives:
        items.append(("the task has no objectives: nothing says when it is done",))
    if found is None:
        items.append(("nothing was verified: no check ran on the result",))
    else:
        items += _not_proven(found)
    if found is not None and found.protected_changed:
        paths = quote(", ".join(found.protected_changed))
        items.append(("protected files were changed, and checks ran without that: ", paths))
    if found is not None and found.suspects:
        items += [("the work reaches for what judges it: ", _prose(why)) for why in found.suspects]
    refused = dict.fromkeys(
        path for event in events if isinstance(event, e.CallReturned) for path in event.paths
    )
    if refused:
        tried = quote(", ".join(refused))
        items.append(("a tool was refused to write protected files: ", tried))
    workspace = state.workspace
    if workspace is not None and workspace.path:
        if workspace.carried:
            carried = quote(", ".join(workspace.carried))
            items.append(
                ("uncommitted edits that the work began with, whoever made them: ", carried)
            )
        items += [("the workspace: ", _prose(note)) for note in workspace.notes]
        items += _environment(state)
    if outside := _daemon_tools(state, events):
        items.append(("tools that ran outside of the sandbox: ", quote(", ".join(outside))))
    if state.kept is not None and state.kept.artifacts:
        items.append(("artifacts: no check has looked at them",))
    items.append(_confined(workspace))
    items += _not_confined(_sandboxes(state, events))
    return tuple(items)


def _confined(workspace: e.WorkspaceOpened | None) -> Item:
    if workspace is None or not workspace.sandbox:
        return ("how tools and checks were confined: the log does not say which sandbox was used",)
    limits = "; ".join(f"{name}: {means}" for name, means in workspace.limits.items())
    return ("how tools and checks were confined: ", quote(workspace.sandbox), "; ", quote(limits))


def _environment(state: State) -> Iterator[Item]:
    """What the checks stood on, and who made it."""
    prepared = state.prepared
    if prepared is None:
        return
    found = prepared.environment
    if found.key:
        when = "kept from an earlier setup" if prepared.cached else "set up for this task"
        yield (f"the environment, {when} by ", quote(found.source), ": it was taken as it came out")
        changed = state.verification.changed if state.verification else []
        if manifests := [path for path in changed if is_manifest(path)]:
            yield (
                "the dependencies that the work asks for: checks had those of the version before, "
                "though it changes ",
                quote(", ".join(manifests)),
            )
    if found.python:
        yield ("python of ", quote(found.python), ": what is installed there was taken as it is")
    for note in prepared.notes:
        yield ("the environment: ", _prose(note))


def _not_confined(kinds: Iterable[str]) -> Iterator[Item]:
    """What the sandboxes that were used do not promise."""
    if "container" in kinds:
        yield (
            "what tools and checks saw of the container that they ran in: it was their boundary, "
            "they had no namespaces of their own",
        )
    if "unsafe-no-sandbox" in kinds:
        yield ("anything that tools and checks did outside of the workspace: no sandbox was used",)


def _sandboxes(state: State, events: Sequence[e.AnyEvent]) -> dict[str, None]:
    """The kinds that tools and checks ran in, the first first; empty: not known."""
    kinds: dict[str, None] = {}
    if state.workspace is not None and state.workspace.path:
        kinds[state.workspace.sandbox] = None
    for event in events:
        if isinstance(event, e.CallReturned) and event.sandbox:
            kinds[event.sandbox] = None
        if isinstance(event, e.VerificationEnded) and event.checks:
            kinds[event.sandbox] = None
    return kinds


def _not_proven(found: e.VerificationEnded) -> Iterator[Item]:
    def named(checks: Iterable[e.CheckResult]) -> Quote | None:
        ids = ", ".join(check.id for check in checks)
        return quote(ids) if ids else None

    checks = found.checks
    if without := named(check for check in checks if check.before is None):
        yield ("what these checks said before the work: there is no baseline: ", without)
    if found.grade in (REGRESSION_ONLY, SELF_CHOSEN):
        yield ("whether the work mends anything: no given check surely failed before it",)
    turned = (c for c in checks if c.ok and c.before and not c.before.ok and not c.countered)
    if untold := named(turned):
        yield ("whether these checks notice a test that fails: no counter-check: ", untold)
    if flaky := named(check for check in checks if check.flaky):
        yield ("flaky checks prove little, whatever they said: ", flaky)
    if once := named(check for check in checks if check.ok):
        yield ("whether these checks pass every time: they ran once on the result: ", once)
    if uncounted := named(check for check in checks if check.ran is None and check.passed is None):
        yield ("how many tests ran, only the exit code counted: ", uncounted)
    if counted := named(c for c in checks if c.ran is not None and not (c.tests and c.tests.blob)):
        yield ("which tests ran, they were counted and not named: ", counted)
    if printed := named(c for c in checks if c.tests and c.tests.known_by == "output"):
        yield ("whether tests are what was printed, no runner reported them: ", printed)
    if own := named(check for check in checks if check.origin != "given"):
        yield ("whether these checks are the right ones, whoever did the work chose them: ", own)
    if unbound := named(check for check in checks if _may_have_lost_tests(check)):
        yield ("whether fewer tests ran than before the work, no min_passed: ", unbound)


def _may_have_lost_tests(check: e.CheckResult) -> bool:
    compared = check.before is not None and check.before.ran is not None
    return check.passed is not None and check.min_passed is None and not compared


def _artifacts(state: State) -> tuple[Item, ...]:
    """Files beside the patch; those that were wanted and are not there."""
    kept = state.kept
    if kept is None:
        return ()
    items: list[Item] = [
        (quote(file.path), f": {file.bytes} bytes, SHA-256 ", quote(file.sha256))
        for file in kept.artifacts
    ]
    items += [("no file matches ", quote(pattern)) for pattern in kept.missing]
    return (*items, *(("left out: ", _prose(said)) for said in kept.left_out))


def _unknown(state: State) -> tuple[Item, ...]:
    return tuple(
        ("call ", quote(u.call_id), " of tool ", quote(u.tool), ": ", _prose(u.message))
        for u in state.unknown
    )


def _people(log: Sequence[tuple[int, e.AnyEvent]]) -> tuple[Item, ...]:
    """Who asked, allowed, refused and stopped what, and when."""
    items: list[Item] = []
    asked: dict[str, e.ApprovalRequested] = {}
    for at_us, event in log:
        when = f"{_at(at_us)}: "
        match event:
            case e.ApprovalRequested():
                asked[event.approval_id] = event
            case e.ApprovalDecided():
                done = "approved" if event.decision == "approve" else "denied"
                what = _asked(event.approval_id, asked)
                why = (", saying ", _prose(event.message)) if event.message else ()
                request = asked.get(event.approval_id)
                late = request is not None and at_us >= request.expires_at_us
                note = (", too late: it counted as a no",) if late else ()
                items.append((when, quote(event.by), f" {done} ", *what, *why, *note))
            case e.ApprovalExpired():
                items.append((when, "nobody decided about ", *_asked(event.approval_id, asked)))
            case e.CancelRequested():
                why = (": ", _prose(event.reason)) if event.reason else ()
                items.append((when, quote(event.by), " cancelled the task", *why))
            case e.PauseRequested():
                items.append((when, quote(event.by), " paused the task"))
            case e.ResumeRequested():
                items.append((when, quote(event.by), " let the task go on"))
            case e.PublicationRequested():
                items.append((when, quote(event.by), " asked for the branch to be published"))
            case e.Continued():
                why = (": ", _prose(event.message)) if event.message else ()
                items.append((when, quote(event.by), " continued the task", *why))
            case e.Forked():
                items.append((when, quote(event.by), " forked it from ", quote(event.parent)))
            case e.CallWithdrawn():
                items.append((when, quote(event.by), " withdrew the call ", quote(event.step_id)))
            case e.Steered():
                items.append((when, quote(event.by), " said ", _prose(event.message)))
            case e.TaskChanged():
                items.append((when, quote(event.by), " changed its labels or priority"))
            case _:
                pass
    return tuple(items)


def _asked(approval_id: str, asked: dict[str, e.ApprovalRequested]) -> Item:
    request = asked.get(approval_id)
    if request is None:
        return (quote(approval_id),)
    arguments = quote(msgspec.json.encode(request.arguments).decode())
    if request.subject == "unknown_effect":
        return ("going on after the unknown effect of ", quote(request.tool), " ", arguments)
    return ("the call ", quote(request.tool), " ", arguments)


def _network(state: State, events: Sequence[e.AnyEvent]) -> tuple[Item, ...]:
    policy, reached = state.task.policy, state.reached
    allowed: Item = (": ", quote(", ".join(policy.egress))) if policy.egress else ()
    if not reached.hosts and not reached.turned_away:
        allowed = (*allowed, "; no connection is recorded in the log")
    items: list[Item] = [(f"policy: {policy.network}", *allowed)]
    items += [
        ("reached ", quote(key), f": {connection_words(host)}")
        for key, host in sorted(reached.hosts.items())
    ]
    items += [
        (f"{away_words(host)}: ", quote(key), ", because ", _prose(reason_of(host)))
        for key, host in sorted(reached.turned_away.items())
    ]
    if reached.left_out:
        items.append((f"and {reached.left_out} more facts about other hosts",))
    if outside := _daemon_tools(state, events):
        items.append(
            (
                "tools outside of the sandbox may have used it, nothing recorded that: ",
                quote(", ".join(outside)),
            )
        )
    return tuple(items)


def _cost(state: State, log: Sequence[tuple[int, e.AnyEvent]]) -> tuple[Item, ...]:
    usage, limits = state.usage, state.task.limits
    items: list[Item] = [
        (f"steps: {usage.steps} of at most {limits.steps}",),
        (f"model tokens: {usage.tokens} of at most {limits.tokens}",),
        (f"US dollars: {usage.usd:.4f} of at most {limits.usd:g}",),
        (f"seconds running: {usage.running_us / 1e6:.1f} of at most {limits.seconds:g}",),
    ]
    if state.earlier:
        total = state.total
        items.append(
            (f"all {state.run} runs together: {total.steps} steps, {total.tokens} tokens, "
             f"{total.usd:.4f} US dollars, {total.running_us / 1e6:.1f} seconds",)
        )  # fmt: skip
    if log:
        items.append((f"from {_at(log[0][0])} to {_at(log[-1][0])}",))
    return tuple(items)


def _next(state: State, status: Status, rows: Sequence[Row]) -> tuple[Item, ...]:
    task_id = visible(state.task_id)
    items: list[Item] = [
        ("check offline that log and claims are what was written: ",
         Quote(f"agent-runtime verify {task_id}")),
    ]  # fmt: skip
    found = state.verification
    if found is not None and found.patch_bytes:
        unverified = "" if status is Status.SUCCEEDED else " --unverified"
        items += [
            ("read the patch: ", Quote(f"agent-runtime diff {task_id}")),
            ("take it: ", Quote(f"agent-runtime apply {task_id}{unverified}")),
            ("SHA-256 of the patch: ", quote(found.patch_blob), f", {found.patch_bytes} bytes"),
            ("tree that was checked: ", quote(found.tree), ", made from ", quote(found.base_tree)),
        ]
    if rows:
        items.append((f"the log has {rows[-1].seq} events and the head ", quote(rows[-1].hash)))
    return tuple(items)


# ---- words -------------------------------------------------------------------------------


def visible(text: str, *, keep: str = "") -> str:
    """`text` with everything spelled (`\\x1b`) that is not seen as itself, `keep` excepted.

    Controls move a terminal's cursor, bidirectional marks turn the writing, and zero-width
    characters make two names look the same.
    """
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def quote(text: str) -> Quote:
    """A name or a command, spelled exactly, on one line."""
    return Quote(visible(_cut(text, QUOTE_CHARS_MAX)))


def _prose(text: str) -> Quote:
    return quote(" ".join(text.split()))


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"


def _few(items: Sequence[Item]) -> tuple[Item, ...]:
    more = len(items) - ITEMS_MAX
    return (*items[:ITEMS_MAX], (f"and {more} more",)) if more > 0 else tuple(items)


def _daemon_tools(state: State, events: Iterable[e.AnyEvent]) -> list[str]:
    used = {event.tool for event in events if isinstance(event, e.CallIntended)}
    return sorted(
        name for name in used if name in state.tools and state.tools[name].where == "daemon"
    )


def _command(command: str | list[str]) -> str:
    return command if isinstance(command, str) else shlex.join(command)


def _at(at_us: int) -> str:
    moment = datetime.fromtimestamp(at_us / 1e6, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
