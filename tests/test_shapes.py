from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
import pytest

from agent_runtime.shapes import words_at


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Part(msgspec.Struct):
    colour: Colour | None = None
    sizes: Annotated[list[Literal["s", "l"]], msgspec.Meta(max_length=3)] = []


class Whole(msgspec.Struct):
    parts: list[Part] = []
    named: dict[str, Part] = {}
    kind: Literal["a", "b"] = "a"
    count: int = 0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"kind": "c"}, ["a", "b"]),
        ({"parts": [{}, {"colour": "green"}]}, ["red", "blue"]),
        ({"parts": [{"sizes": ["s", "m"]}]}, ["l", "s"]),
        ({"named": {"x": {"colour": "green"}}}, ["red", "blue"]),
        ({"count": "x"}, []),
    ],
)
def test_the_words_are_those_of_the_place_that_msgspec_names(
    value: object, words: list[str]
) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(value, Whole)
    place = str(refused.value).partition(" - at ")[2].strip("`")
    assert sorted(words_at(Whole, place)) == sorted(words)
