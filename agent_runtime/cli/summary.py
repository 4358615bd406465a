"""What a task came to, in words: the last lines of `run`, and the end of `show`."""

from __future__ import annotations

from agent_runtime.certificate import Result
from agent_runtime.cli.console import command, one_line, short
from agent_runtime.cli.views import decision_lines
from agent_runtime.cli.words import USUAL_SANDBOX, asked_words, command_words
from agent_runtime.loop.events import CheckResult, WorkKept
from agent_runtime.loop.grades import PROVEN, REGRESSION_ONLY, SELF_CHOSEN
from agent_runtime.loop.reached import away_words, connection_words, reason_of
from agent_runtime.loop.state import State, status_of
from agent_runtime.report import FLAKY_WORDS
from agent_runtime.types import Status
from agent_runtime.verdicts import few

CHANGED_MAX = 20
HOSTS_SHOWN_MAX = 20
GRADES = {
    PROVEN: "proven: a check failed before the work, and all pass now",
    REGRESSION_ONLY: "regression_only: all pass, and none surely failed before the work",
    SELF_CHOSEN: "self_chosen: all pass, and whoever did the work chose them",
}


def result_lines(state: State, result: Result) -> list[str]:
    """An ended task: status, evidence, files, and what to do next."""
    lines = ["", result.status + (f": {one_line(result.reason, 1000)}" if result.reason else "")]
    found = state.verification
    if found is not None:
        for check in found.checks:
            lines += [f"  check {check_words(check)}", *(f"    {w}" for w in test_words(check))]
        if found.grade:
            lines.append(f"  grade        {GRADES.get(found.grade, found.grade)}")
        if found.changed:
            shown = ", ".join(found.changed[:CHANGED_MAX])
            more = len(found.changed) - CHANGED_MAX
            lines.append(f"  changed      {shown}" + (f" and {more} more" if more > 0 else ""))
        if found.sandbox not in ("", USUAL_SANDBOX):
            lines.append(f"  sandbox      the checks ran in {found.sandbox}")
    lines += [f"  {line}" for line in egress_lines(state)]
    if state.kept is not None:
        lines += artifact_lines(state.kept)
    lines += publication_lines(state)
    if result.patch:
        lines.append(f"  patch        {result.patch}")
    if result.certificate:
        lines.append(f"  certificate  {result.certificate}")
    if result.protected_files:
        lines.append(f"  ! protected files: {', '.join(result.protected_files)}")
    for unknown in result.unknown_effects:
        lines.append(
            f"  ! unknown effect: {unknown['tool']} ({unknown['call_id']}): "
            f"{one_line(unknown['message'])}"
        )
    if state.cleaned is not None:
        lines += [f"  ! not cleaned up: {one_line(text)}" for text in state.cleaned.problems]
    lines += ["next:", *(f"  {line}" for line in _next_commands(state, result))]
    return lines


def artifact_lines(kept: WorkKept) -> list[str]:
    """What was kept beside the patch, and what was not."""
    lines = []
    if kept.artifacts:
        shown = ", ".join(one_line(artifact.path) for artifact in kept.artifacts[:CHANGED_MAX])
        more = len(kept.artifacts) - CHANGED_MAX
        lines.append(f"  artifacts    {shown}" + (f" and {more} more" if more > 0 else ""))
    if kept.missing:
        lines.append(f"  ! no artifact matches: {one_line(', '.join(kept.missing))}")
    return lines + [f"  ! artifact left out: {one_line(said)}" for said in kept.left_out]


def publication_lines(state: State) -> list[str]:
    """Where the branch went; why it did not, the status says."""
    publication = state.publication
    if publication is None or (told := publication.prepared) is None:
        return []
    lines = []
    if publication.pushed is not None:
        lines.append(f"  branch       {told.branch} of {told.url} is {told.commit[:12]}")
        if told.verification is not None:
            lines.append(f"               checked again on {told.base} at {told.base_commit[:12]}")
    if publication.opened is not None:
        lines.append(f"  pull request {publication.opened.url}")
    return lines


def _next_commands(state: State, result: Result) -> list[str]:
    name = short(state.task_id)
    taken = [command("artifacts", name, "--output", "DIR")] if result.artifacts else []
    if not result.certificate:
        return [command("logs", name), *taken]
    checked = command("verify", name)
    return [*_patch_commands(state, result, checked), *taken]


def _patch_commands(state: State, result: Result, checked: str) -> list[str]:
    name = short(state.task_id)
    if state.verification is None or not state.verification.patch_bytes:
        return [checked]
    publication = state.publication
    if publication is not None and publication.ended is not None:
        if publication.ended.ok:
            return [checked]
        return [command("publish", name), command("pull", name), checked]
    flags = () if result.status == Status.SUCCEEDED else ("--unverified",)
    return [command("diff", name), command("apply", name, *flags), checked]


def egress_lines(state: State) -> list[str]:
    """What the task's sandboxes reached and were refused, a line a host."""
    reached = state.reached
    lines = [
        f"reached      {key}: {connection_words(host)}"
        for key, host in sorted(reached.hosts.items())
    ]
    lines += [
        f"! network: {away_words(host)}: {key}: {one_line(reason_of(host))}"
        for key, host in sorted(reached.turned_away.items())
    ]
    more = len(lines) - HOSTS_SHOWN_MAX
    if more > 0 or reached.left_out:
        lines = [*lines[:HOSTS_SHOWN_MAX], "! network: more, see show --json"]
    return lines


def check_words(check: CheckResult) -> str:
    """One objective's check as it ended."""
    verdict = "ok" if check.ok else "NOT ok"
    exit_words = f"exit {check.exit}"
    if check.exit != check.expected_exit:
        exit_words += f" (expected {check.expected_exit})"
    if check.passed is not None:
        exit_words += f", {check.passed} passed"
        if check.min_passed is not None:
            exit_words += f" of at least {check.min_passed}"
    if check.before is not None and check.before.ok != check.ok:
        exit_words += f"; before the work exit {check.before.exit}"
        if check.before.passed is not None:
            exit_words += f", {check.before.passed} passed"
    if check.flaky:
        exit_words += f"; FLAKY: {FLAKY_WORDS}"
    why = f": {one_line(check.reason)}" if check.reason and not check.ok else ""
    return f"{check.id}: {verdict}, {exit_words}{why} | {one_line(command_words(check.command))}"


def test_words(check: CheckResult) -> list[str]:
    """What became of single tests, where somebody should know."""
    compared = check.compared
    if compared is None:
        return []
    return [
        one_line(f"{tests.count} {words}: {few(tests.names, tests.count)}", 500)
        for tests, words in (
            (compared.mended, "mended"),
            (compared.broken, "broken"),
            (compared.unstable, "unstable on the same tree"),
        )
        if tests.count
    ]


def waiting_lines(state: State, *, driven: bool = False) -> list[str]:
    """A task that waits: for what, and what makes it go on. `driven`: by a daemon, which goes on
    with it by itself as soon as somebody has decided."""
    _, reason = status_of(state)
    name = short(state.task_id)
    if reason == "brain":
        if state.asked_client:
            return ["waiting for a connected client to decide the next turn"]
        offers = state.brain.offers if state.brain is not None else []
        return [
            "waiting for a brain: somebody must think for this task. What would serve:",
            *(f"  - {one_line(offer, 500)}" for offer in offers),
            f"  - then go on with: {command('resume', name)}",
            f"  - or with a model for this task alone: {command('resume', name, '--model', 'M')}",
            "  - or give a task its steps, under `plan`: `agent-runtime init` makes such a file",
            f"  - or end it: {command('cancel', name)}",
        ]
    lines = ["waiting for a person:"]
    for asked in state.approvals.values():
        lines.append(f"  {asked.approval_id}: {asked_words(asked)}")
        lines += [f"    {line}" for line in decision_lines(state.task_id, asked)]
    if driven:
        return [*lines, f"it goes on by itself then; watch it with: {command('attach', name)}"]
    return [*lines, f"then go on with: {command('resume', name)}"]
