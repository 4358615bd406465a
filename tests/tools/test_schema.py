from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime import schema
from agent_runtime.types import Json

EDITS: Json = {
    "type": "array",
    "minItems": 1,
    "maxItems": 3,
    "items": {
        "type": "object",
        "properties": {"oldText": {"type": "string"}, "newText": {"type": "string"}},
        "required": ["oldText"],
        "additionalProperties": False,
    },
}
SCHEMA: Json = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "minLength": 1, "maxLength": 10},
        "count": {"type": "integer", "minimum": 1, "maximum": 5},
        "ratio": {"type": "number"},
        "deep": {"type": "boolean"},
        "mode": {"enum": ["soft", "hard", 1]},
        "edits": EDITS,
        "maybe": {"type": ["string", "null"]},
        "command": {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
            ]
        },
        "one": {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 5}]},
    },
    "required": ["path"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "more",
    [
        {}, {"count": 5}, {"ratio": 1}, {"ratio": 0.5}, {"deep": True}, {"mode": "soft"},
        {"mode": 1}, {"edits": [{"oldText": "a"}]}, {"maybe": None}, {"maybe": ""},
        {"command": "x"}, {"command": ["x"]}, {"one": 3}, {"one": 6.5},
    ],
)  # fmt: skip
def test_what_fits_has_no_problem(more: dict[str, Json]) -> None:
    assert schema.check({"path": "a", **more}, SCHEMA) == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "'path' is required and missing"),
        ({"path": ""}, "'path' must have at least 1 characters, got 0"),
        ({"path": "x" * 11}, "'path' must have at most 10 characters, got 11"),
        ({"path": 3}, "'path' must be a string, got 3"),
        ({"path": None}, "'path' must be a string, got None"),
        ({"count": 0}, "'count' must be at least 1, got 0"),
        ({"count": 6}, "'count' must be at most 5, got 6"),
        ({"count": True}, "'count' must be an integer, got True"),
        ({"count": 5.0}, "'count' must be an integer, got 5.0"),
        ({"ratio": "1"}, "'ratio' must be a number, got '1'"),
        ({"ratio": float("nan")}, "'ratio' must be a number, got NaN"),
        ({"deep": 1}, "'deep' must be a boolean, got 1"),
        ({"mode": "Hard"},
         "'mode' must be one of 'soft', 'hard', 1; got 'Hard'; did you mean 'hard'?"),
        ({"mode": True}, "'mode' must be one of 'soft', 'hard', 1; got True"),
        ({"edits": []}, "'edits' must have at least 1 items, got 0"),
        ({"edits": [{"oldText": "a"}] * 4}, "'edits' must have at most 3 items, got 4"),
        ({"edits": [{}]}, "'edits[0].oldText' is required and missing"),
        ({"edits": [{"oldText": "a", "new_text": "b"}]},
         "'new_text' is not a known key of 'edits[0]'; did you mean 'newText'? "
         "(known: newText, oldText)"),
        ({"maybe": 1}, "'maybe' must be a string or a null, got 1"),
        ({"command": []}, "'command' must have at least 1 items, got 0"),
        ({"command": 3},
         "'command' fits none of 2 choices: 'command' must be a string, got 3; or 'command' must "
         "be an array, got 3"),
        ({"one": 7}, "'one' must fit one choice only, and fits 2"),
        ({"path": "\ud800"}, "'path' holds half of a surrogate pair: '\\ud800'"),
    ],
)  # fmt: skip
def test_a_problem_names_key_rule_and_value(arguments: dict[str, Json], problem: str) -> None:
    given_path = arguments if "path" in arguments or not arguments else {"path": "a", **arguments}
    assert schema.check(given_path, SCHEMA) == [problem]


@pytest.mark.parametrize("word", ["pth", "PATH", "paths", "_path"])
def test_an_unknown_key_is_told_its_nearest(word: str) -> None:
    (problem,) = schema.check({"path": "a", word: 1}, SCHEMA)
    assert f"{word!r} is not a known key; did you mean 'path'?" in problem


def test_a_key_that_resembles_nothing_is_told_what_there_is() -> None:
    (problem,) = schema.check({"path": "a", "zzzzzz": 1}, SCHEMA)
    assert "did you mean" not in problem
    assert "(known: command, count, deep" in problem


@pytest.mark.parametrize("arguments", [[], "x", None, 3])
def test_arguments_that_are_no_object_are_a_problem_too(arguments: Json) -> None:
    (problem,) = schema.check(arguments, SCHEMA)
    assert problem.startswith("the value must be an object, got ")


def test_a_hostile_argument_makes_a_short_message() -> None:
    problems = schema.check(dict.fromkeys(map(str, range(10_000)), "x" * 100_000), SCHEMA)
    assert len(problems) == schema.PROBLEMS_MAX
    assert all(len(problem) < 500 for problem in problems)
    (problem,) = schema.check({"path": list(range(10**6))}, SCHEMA)
    assert problem == "'path' must be a string, got an array of 1000000"


def test_keywords_it_does_not_know_are_left_to_the_schemas_owner() -> None:
    assert schema.check("x", {"type": "string", "pattern": "^y$", "$ref": "#/a"}) == []


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50)
@given(_json)
def test_no_value_makes_it_raise(value: Json) -> None:
    for problem in schema.check(value, SCHEMA) + schema.check(
        {"path": "a", "edits": value}, SCHEMA
    ):
        assert problem
