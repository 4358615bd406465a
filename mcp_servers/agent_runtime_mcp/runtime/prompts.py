"""Prompts: texts that a person picks in their client, filled with what they type.

A prompt is a file `NAME.md`: YAML between two lines of `---` (title, description, arguments), then
a Jinja2 template. Ours are in the package; a user's folder (the setting `mcp_prompts`) adds to them
and may replace them. It is read with each request, so that an edit is seen at once.

Templates run nothing. Of Jinja2's language only what cannot grow is taken: the text, the arguments,
`if`, and a few filters; no loop, call, attribute or arithmetic. So filling one takes no longer than
reading it, and what a person types is never a template.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Final

import jinja2
import msgspec
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent_runtime.documents import decode, load
from agent_runtime.errors import UsageError
from agent_runtime.schema import nearest
from agent_runtime_mcp.definitions import (
    McpFault,
    PromptAnswer,
    PromptArgument,
    PromptDefinition,
)

log = logging.getLogger(__name__)

FILE_BYTES_MAX: Final = 64 << 10
FILES_MAX: Final = 200
ARGUMENT_CHARS_MAX: Final = 50_000
NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
FILTERS: Final = ("trim", "default", "lower", "upper")

_HEAD = re.compile(r"---\n(.*?)^---\n(.*)\Z", re.DOTALL | re.MULTILINE)
_TAKEN: Final = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.If, nodes.Const,
    nodes.Filter, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not,
)  # fmt: skip


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str = ""
    description: str = ""
    arguments: list[_Argument] = []


class _Argument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    description: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that can be filled."""

    definition: PromptDefinition
    template: jinja2.Template

    def filled(self, given: Mapping[str, str]) -> PromptAnswer:
        """As one message of the user.

        Raises:
            McpFault: an argument is missing, too long or not one of its own.
        """
        wanted = {argument.name: argument for argument in self.definition.arguments}
        name = self.definition.name
        for key, value in given.items():
            if key not in wanted:
                guess = nearest(key, wanted)
                hint = f"; did you mean {guess!r}?" if guess else f"; it has {', '.join(wanted)}"
                raise _wrong(f"the prompt {name!r} has no argument {key!r}{hint}")
            if len(value) > ARGUMENT_CHARS_MAX:
                raise _wrong(
                    f"the argument {key!r} has {len(value)} characters, at most "
                    f"{ARGUMENT_CHARS_MAX} are taken"
                )
        missing = [
            key
            for key, argument in wanted.items()
            if argument.required and not given.get(key, "").strip()
        ]
        if missing:
            raise _wrong(f"the prompt {name!r} needs {', '.join(missing)}")
        text = self.template.render({key: given.get(key, "") for key in wanted}).strip()
        message = {"role": "user", "content": {"type": "text", "text": text}}
        return PromptAnswer([message], self.definition.description)


def _wrong(message: str) -> McpFault:
    return McpFault(McpFault.INVALID_PARAMS, message)


def read_prompts(folder: str) -> dict[str, Prompt]:
    """Every prompt by name, in order: ours, and those of `folder` (empty: there is none).

    One that cannot be used is left out, and the log says why. Blocks.
    """
    found = dict(_built_in())
    for name, text in _texts(folder) if folder else ():
        try:
            found[name] = parse_prompt(name, text)
        except UsageError as error:
            log.warning("the prompt %s of %r is left out: %s", name, folder, error)
    return dict(sorted(found.items()))


@lru_cache(maxsize=1)
def _built_in() -> Mapping[str, Prompt]:
    here = files("agent_runtime_mcp.runtime") / "prompt_files"
    return {
        file.name.removesuffix(".md"): parse_prompt(
            file.name.removesuffix(".md"), file.read_text(encoding="utf-8")
        )
        for file in here.iterdir()
        if file.name.endswith(".md")
    }


def _texts(folder: str) -> list[tuple[str, str]]:
    """Name and text of each file that may be a prompt."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".md"))
    except OSError as error:
        log.warning("the prompts of %r cannot be read: %s", folder, error.strerror)
        return []
    if len(names) > FILES_MAX:
        log.warning("%r has %d prompts, the first %d are taken", folder, len(names), FILES_MAX)
    found = []
    for file in names[:FILES_MAX]:
        path = os.path.join(folder, file)
        try:
            found.append((file.removesuffix(".md"), decode(_read(path), name=file)))
        except (OSError, UsageError) as error:
            log.warning("the prompt %r is left out: %s", path, error)
    return found


def _read(path: str) -> bytes:
    # O_NONBLOCK: a FIFO would wait for somebody who writes.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UsageError("it is no file")
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(f"it has more than {FILE_BYTES_MAX} bytes")
    return data


def parse_prompt(name: str, text: str) -> Prompt:
    """The prompt in a file.

    Raises:
        UsageError: what is wrong with it.
    """
    if not NAME.match(name):
        raise UsageError(f"{name!r} is no name: small letters, digits, - and _, at most 64")
    parts = _HEAD.match(text)
    if parts is None:
        raise UsageError(
            "it must begin with YAML between two lines of ---, see docs/mcp-runtime.md"
        )
    document = load(parts[1], name=f"{name}.md")
    if document.problems:
        raise UsageError("; ".join(problem for _, problem, _ in document.problems))
    try:
        head = msgspec.convert(document.value or {}, _Head)
    except msgspec.ValidationError as error:
        raise UsageError(f"its head: {error}") from None
    arguments = [PromptArgument(**msgspec.structs.asdict(each)) for each in head.arguments]
    definition = PromptDefinition(
        name=name, title=head.title, description=head.description, arguments=arguments
    )
    return Prompt(definition, _template(parts[2], [each.name for each in arguments]))


def _template(source: str, known: Sequence[str]) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    try:
        tree = environment.parse(source)
        for node in tree.find_all(nodes.Node):
            _require_tame(node, known)
        return environment.from_string(tree)
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(f"line {error.lineno} of its template: {error.message}") from None
    except RecursionError:
        raise UsageError("its template is nested too deeply") from None


def _require_tame(node: nodes.Node, known: Sequence[str]) -> None:
    where = f"line {node.lineno} of its template"
    if not isinstance(node, _TAKEN):
        raise UsageError(
            f"{where}: {type(node).__name__} is not taken; a template has text, arguments, `if` "
            f"and the filters {', '.join(FILTERS)}"
        )
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        raise UsageError(f"{where}: the filter {node.name!r} is none of {', '.join(FILTERS)}")
    if isinstance(node, nodes.Name) and (node.ctx != "load" or node.name not in known):
        raise UsageError(f"{where}: {node.name!r} is no argument ({', '.join(known) or 'none'})")
