"""What a template of a plan reads: which steps, and what of their results. Nothing is evaluated.

Templates are filled in the worker, under limits; here they are only parsed, so that a misspelt step
is told before the task is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import jinja2
from jinja2 import nodes

from agent_runtime.schema import nearest
from agent_runtime.shapes import shown

VARIABLES: Final = ("steps", "goal")
"""What a template can read."""
RESULT_KEYS: Final = ("output", "exit", "ok")
"""What a template can read of a step."""
TEMPLATE_CHARS_MAX: Final = 65_536
"""Of one text with expressions in it."""

FUNCTIONS: Final = ("range", "dict")

# As `sandboxes.rendering` reads them: `${#name}` of a shell is text like any other.
_PARSER: Final = jinja2.Environment(
    block_start_string="\0{%",
    block_end_string="%}\0",
    comment_start_string="\0{#",
    comment_end_string="#}\0",
)
_FILTERS: Final = (*_PARSER.filters, "quote")
"""Jinja2's, and the one of `sandboxes.rendering`."""
_STATEMENT: Final = re.compile(r"\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_RAW: Final = re.compile(r"\s*\{% raw %\}.*\{% endraw %\}\s*", re.DOTALL)
_TAKEN_AS_IT_IS: Final = "a text is taken as it is between {% raw %} and {% endraw %}"


class Reference(NamedTuple):
    """A step that a template reads. `key` is empty where it reads the whole result."""

    step_id: str
    key: str


def read_names(text: str) -> frozenset[str]:
    """What the expressions of a text read, whoever knows it; nothing, if they cannot be parsed."""
    if "{{" not in text or _RAW.fullmatch(text) or len(text) > TEMPLATE_CHARS_MAX:
        return frozenset()
    try:
        found = _PARSER.parse(text).find_all(nodes.Name)
        return frozenset(node.name for node in found if node.name not in FUNCTIONS)
    except (jinja2.TemplateSyntaxError, RecursionError, ValueError, OverflowError):
        return frozenset()


def read_template(
    text: str, variables: Sequence[str] = VARIABLES
) -> tuple[list[Reference], list[str]]:
    """The steps that the expressions of a text read, and what is wrong with them."""
    if _RAW.fullmatch(text):
        return [], []
    if len(text) > TEMPLATE_CHARS_MAX:
        return [], [
            f"a template has at most {TEMPLATE_CHARS_MAX} characters, got {len(text)}; "
            f"{_TAKEN_AS_IT_IS}"
        ]
    try:
        tree = _PARSER.parse(text)
        faults = [
            _unknown(node.name, variables)
            for node in tree.find_all(nodes.Name)
            if node.name not in (*variables, *FUNCTIONS)
        ]
        faults += [
            _no_such("filter", node.name, _FILTERS)
            for node in tree.find_all(nodes.Filter)
            if node.name not in _FILTERS
        ]
        faults += [
            _no_such("test", node.name, _PARSER.tests)
            for node in tree.find_all(nodes.Test)
            if node.name not in _PARSER.tests
        ]
        faults += [
            f"a template has only expressions {{{{ … }}}}, no statements and no comments: "
            f"{shown(found[0])}; {_TAKEN_AS_IT_IS}"
            for node in tree.find_all(nodes.TemplateData)
            if (found := _STATEMENT.search(node.data))
        ]
        return list(dict.fromkeys(_references(tree))), list(dict.fromkeys(faults))
    except jinja2.TemplateSyntaxError as error:
        return [], [
            f"is no template expression: {error.message}, in {shown(text)}; "
            f"a literal pair of braces is written {{{{ '{{{{' }}}}, and {_TAKEN_AS_IT_IS}"
        ]
    except (RecursionError, ValueError, OverflowError):
        return [], ["the template is too large or nested too deeply"]


def _references(tree: nodes.Template) -> Iterator[Reference]:
    keys: dict[int, str] = {}
    """Identity of an expression (equal ones are equal nodes) -> what is read of it."""
    # From the outside in: `steps.ID.output` is met before the `steps.ID` in it.
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        assert isinstance(node, (nodes.Getattr, nodes.Getitem))
        read = _name(node)
        if read is None:
            continue
        match node.node:
            case nodes.Name(name="steps"):
                yield Reference(read, keys.get(id(node), ""))
            case nodes.Getattr() | nodes.Getitem() as inner:
                keys[id(inner)] = read
            case _:
                pass


def _name(node: nodes.Getattr | nodes.Getitem) -> str | None:
    """`a` of `x.a` and `x['a']`; None where it is only known when the task runs."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    return str(node.arg.value) if isinstance(node.arg, nodes.Const) else None


def _unknown(name: str, variables: Sequence[str]) -> str:
    guess = nearest(name, variables)
    hint = f"; did you mean {guess!r}?" if guess else ""
    return f"a template knows {' and '.join(variables)}, not {shown(name)}{hint}"


def _no_such(kind: str, name: str, known: Iterable[str]) -> str:
    guess = nearest(name, known)
    hint = (
        f"did you mean {guess!r}?" if guess else "there are those of Jinja2, and the filter quote"
    )
    return f"there is no {kind} {shown(name)} in expressions; {hint}"
