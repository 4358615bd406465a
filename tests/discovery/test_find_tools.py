"""Does a brain find the tool that it needs among a hundred?"""

from __future__ import annotations

import pytest

from agent_runtime import plugins
from agent_runtime.loop import ranking
from agent_runtime.loop.ranking import found, rank, strongest, words
from agent_runtime.toolbox import PluginToolbox
from agent_runtime.types import ToolInfo
from tests.discovery.cases import CASES, SAID_OTHERWISE
from tests.discovery.catalogue import infos

TOOLS = [*PluginToolbox.from_plugins(plugins.load()).all(), *infos()]
FIRST = 5


def misses(cases: tuple[tuple[str, str], ...]) -> list[str]:
    """The cases whose tool is not among the first five, and what is there in its place."""
    missed = []
    for query, needed in cases:
        hits = [info.name for info in strongest(rank(query, TOOLS))][:FIRST]
        if needed not in hits:
            missed.append(f"{query!r} needs {needed}, found {', '.join(hits) or 'nothing'}")
    print(f"\n{len(missed)} of {len(cases)} missed:", *missed, sep="\n  ")
    return missed


def test_of_a_hundred_needs_at_least_95_find_their_tool() -> None:
    """Our contract, for a hundred registered tools."""
    assert len(TOOLS) >= 100 and len(CASES) == 100
    assert len(missed := misses(CASES)) <= 5, missed


def test_needs_that_nothing_was_fitted_to_find_theirs_nearly_as_often() -> None:
    """9 of 10: what a table of synonyms that was made for the hundred would not reach."""
    assert len(missed := misses(SAID_OTHERWISE)) <= len(SAID_OTHERWISE) // 10, missed


def test_the_order_is_that_of_the_scores_then_of_the_names() -> None:
    """Not of the registration: a log must not depend on it."""
    ranked = rank("run the tests", TOOLS)
    assert ranked == rank("run the tests", list(reversed(TOOLS)))
    assert ranked == sorted(ranked, key=lambda each: (-each[1], each[0].name))
    assert len(ranked) == len(TOOLS) and ranked[-1][1] == 0


def test_the_facts_of_the_repository_decide_what_the_query_leaves_open() -> None:
    facts = {"languages": ["JavaScript"], "test_commands": ["npm test"], "files": 12}
    assert first("run tests", facts) == "jest_run"
    assert first("run tests", {"languages": ["Python"], "test_commands": []}) == "pytest_run"


def test_facts_alone_find_nothing() -> None:
    assert rank("xyzzy", TOOLS, {"languages": ["Python"]})[0][1] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("list_s3_objects", ["list", "s3", "object"]),
        ("openHTTPServer", ["openhttpserver", "open", "http", "server"]),
        ("deleting deletes deleted deletion", ["delet"] * 4),
        ("queries query", ["query", "query"]),
        ("stopping a process, processes", ["stop", "process", "process"]),
        ("translate translation", ["transl", "transl"]),
        ("status of classes", ["status", "class"]),
        ("Überprüfe die Straße", ["überprüfe", "die", "straße"]),
        ("a I of", []),
    ],
)
def test_words_are_compared_by_their_stems(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_every_row_of_synonyms_is_of_words_with_different_stems() -> None:
    """A row that says the same twice says nothing."""
    for row in ranking.SYNONYMS:
        assert len({ranking.stem(word) for word in row}) > 1, row


def test_the_answer_names_each_hit_its_toolbelt_and_whether_it_is_there_already() -> None:
    text, data = found("kubernetes logs", rank("kubernetes logs", TOOLS), {"standard", "docker"})
    head, first_line, *others = text.splitlines()
    assert head.endswith("tools for 'kubernetes logs', the best first:")
    assert first_line == (
        "- k8s_logs: Read the logs of a pod's containers. "
        "[toolbelt kubernetes, active from your next turn on]"
    )
    assert any(line.endswith("[toolbelt docker, active]") for line in others)
    assert len(others) < ranking.FOUND_MAX
    assert data["tools"][0] == {"name": "k8s_logs", "toolbelt": "kubernetes"}
    assert len(data["tools"]) == 1 + len(others)


def test_a_tool_that_shares_a_word_by_chance_is_not_named() -> None:
    """Each hit brings its toolbelt into the prompt, for the rest of the task."""
    _, data = found("take back a Stripe payment", rank("take back a Stripe payment", TOOLS), ())
    assert [tool["name"] for tool in data["tools"]] == ["stripe_refund"]


def test_nothing_found_says_which_toolbelts_there_are() -> None:
    text, data = found("xyzzy", rank("xyzzy", TOOLS), ())
    assert text.startswith("No installed tool fits 'xyzzy'. Try other words, or do it with shell.")
    assert "Toolbelts: archives, audio, aws, business" in text
    assert data == {"tools": []}


def test_without_tools_and_without_words_the_answer_is_still_one() -> None:
    assert rank("anything", []) == []
    assert found("", rank("", TOOLS), ())[1] == {"tools": []}
    assert "Toolbelts: none." in found("x", [], ())[0]


def test_one_sentence_of_a_description_is_shown_on_one_line() -> None:
    assert ranking.first_sentence("Does\n this. And more.") == "Does this."
    assert ranking.first_sentence("See e.g. this one") == "See e.g. this one"
    assert len(ranking.first_sentence("word " * 100)) <= 160


def first(query: str, facts: dict[str, object]) -> str:
    info: ToolInfo = rank(query, TOOLS, facts)[0][0]
    return info.name
