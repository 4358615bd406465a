"""What a person looks at before a yes or a no: the change that a call would make, or its texts.

The line of a question has all arguments, exactly; here is what reads better below it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import click

from agent_runtime.cli.console import clean, is_terminal, say
from agent_runtime.loop import events as e
from agent_runtime.types import Json

_STYLES = (("+++ ", "bold"), ("--- ", "bold"), ("@@ ", "cyan"), ("+", "green"), ("-", "red"))
"""By how a line of a diff begins; the first that fits."""


def detail_lines(asked: e.ApprovalRequested) -> list[tuple[str, str]]:
    """Lines and their styles (as click and rich name them): the preview, else long arguments."""
    if asked.preview:
        return [(line, _style(line)) for line in _lines(asked.preview)]
    return [
        line
        for name, text in _texts(asked.arguments, "")
        for line in ((f"{name}:", "bold"), *((f"  {part}", "") for part in _lines(text)))
    ]


def say_details(asked: e.ApprovalRequested, indent: str) -> None:
    """Print them, in colour if a person looks at a terminal and wants any."""
    coloured = is_terminal() and not os.environ.get("NO_COLOR")
    for line, style in detail_lines(asked):
        text = clean(line)
        if not coloured or not style:
            say(f"{indent}{text}")
        elif style == "bold":
            click.echo(indent + click.style(text, bold=True))
        else:
            click.echo(indent + click.style(text, fg=style))


def _texts(value: Json, place: str) -> Iterator[tuple[str, str]]:
    """Every text of several lines in the arguments, with where it stands."""
    match value:
        case str() if "\n" in value.rstrip("\n"):
            yield place, value
        case Mapping():
            for key, each in value.items():
                yield from _texts(each, f"{place}.{key}" if place else str(key))
        case list() | tuple():
            for at, each in enumerate(value):
                yield from _texts(each, f"{place}[{at}]")


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def _style(line: str) -> str:
    return next((style for start, style in _STYLES if line.startswith(start)), "")
