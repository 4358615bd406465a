"""What a plug-in contributes, checked against the ports before anybody relies on it.

All code of a plug-in that runs while it loads runs in `guarded`: whatever it does wrong becomes a
`PluginError` that says so. Which plug-ins there are is decided in `plugins`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from agent_runtime.errors import PluginError
from agent_runtime.ports.modules import Installation, Module
from agent_runtime.ports.tools import Tool
from agent_runtime.toolkit import NAME_PATTERN

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """Tools, and the module that they belong to, if any.

    `sources` says what the worker imports to find each tool. `paths` must be importable in the
    sandbox for that, beyond the runtime's own packages and site-packages. `origin` is for people.
    """

    tools: tuple[Tool, ...]
    sources: Mapping[str, str]
    module: Module | None = None
    paths: tuple[str, ...] = ()
    origin: str = ""


def of_tools(source: str, *, origin: str = "") -> Contribution:
    """The tools that the callable at `source` ("package.module:function") returns.

    Raises:
        PluginError: it cannot be imported or called, or a tool breaks the port.
    """
    tools = _tools_at(source)
    return Contribution(
        tools=tools,
        sources={tool.name: source for tool in tools},
        paths=import_paths(source) if _for_worker(tools) else (),
        origin=origin,
    )


def of_module_at(source: str, *, origin: str = "") -> Contribution:
    """The module that the class or function at `source` makes. Raises as `of_module`."""
    return of_module(called(source), source=source, origin=origin)


def of_maker(
    source: str, installation: Installation, *, origin: str = ""
) -> Iterator[Contribution | PluginError]:
    """The modules that the callable at `source` makes of an installation, or what is wrong with
    one, in its place.

    Raises:
        PluginError: it cannot be imported or called, or returns no modules.
    """
    make = imported(source)
    if not callable(make):
        raise PluginError(f"{source!r} is {_a(make)}, and must be callable with an Installation")
    made = guarded(f"calling {source!r}", lambda: make(installation))
    if not isinstance(made, Sequence) or isinstance(made, str | bytes):
        raise PluginError(f"{source!r} returned {_a(made)}, and must return a list of modules")
    for module in made:
        try:
            yield of_module(module, source=source, origin=origin)
        except PluginError as error:
            yield error


def of_module(module: object, *, source: str = "", origin: str = "") -> Contribution:
    """Check a module and ask it for its tools, once.

    A tool for the worker is made anew there, where the module does not live; so the module names,
    in `source`, a function that can be imported there and returns the tool.

    Raises:
        PluginError: the module breaks the port, or a tool does, or a worker tool has no source.
    """
    what = source or type(module).__qualname__
    problem = guarded(f"{what}, asked for its parts,", lambda: next(_module_problems(module), None))
    if problem:
        raise PluginError(f"{what} made {type(module).__name__!r}, which is no module: {problem}")
    assert isinstance(module, Module)
    tools = checked(guarded(f"tools() of {what}", module.tools), f"tools() of {what}")
    for tool in tools:
        if tool.toolbelt == "standard":
            raise PluginError(
                f"tool {tool.name!r} of {what} is in the toolbelt 'standard', which is always on, "
                f"so nothing would start its module; give it a toolbelt of its own"
            )
    sources = {tool.name: source for tool in tools}
    paths: tuple[str, ...] = ()
    if workers := _for_worker(tools):
        worker_source = _worker_source(module, workers, what)
        sources |= dict.fromkeys(workers, worker_source)
        paths = import_paths(worker_source)
    return Contribution(tools=tools, sources=sources, module=module, paths=paths, origin=origin)


# ---- running a plug-in's code ----------------------------------------------------------------


def guarded(what: str, run: Callable[[], T]) -> T:
    """Run a plug-in's code; what it prints goes to stderr, because stdout may be a protocol.

    Raises:
        PluginError: it raised anything, `SystemExit` included.
    """
    try:
        with redirect_stdout(sys.stderr):
            return run()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the border to a plug-in
        log.debug("%s failed", what, exc_info=True)
        raise PluginError(f"{what} {told(error)}") from error


def imported(source: str) -> object:
    """The object at "package.module:attribute". Raises `PluginError`."""
    module_name, _, attribute = source.partition(":")
    if not module_name or not attribute:
        raise PluginError(f"{source!r} must have the form 'package.module:attribute'")
    found: object = guarded(f"importing {module_name!r}", lambda: _import(module_name))
    for name in attribute.split("."):
        owner = found
        found = guarded(f"{source!r}", lambda owner=owner, name=name: getattr(owner, name))  # type: ignore[misc]
    return found


def called(source: str) -> object:
    """What the callable at `source` returns, called without arguments. Raises `PluginError`."""
    make = imported(source)
    if not callable(make):
        raise PluginError(
            f"{source!r} is {_a(make)}, and must be something to call without arguments"
        )
    made: object = guarded(f"calling {source!r}", make)
    if inspect.iscoroutine(made):
        made.close()
        raise PluginError(f"{source!r} is an async function, and must be a plain one")
    return made


def _import(module_name: str) -> object:
    # A package that was installed while this process runs is seen too.
    importlib.invalidate_caches()
    return importlib.import_module(module_name)


def told(error: BaseException) -> str:
    """What an error did, as the end of a sentence: "raised KeyError: 'a' (at acme.py:3)"."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r}){_place(error)}"
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name:
        text += f" (is everything installed that it needs, {error.name.partition('.')[0]!r} too?)"
    return f"raised {type(error).__name__}{f': {text}' if text else ''}{_place(error)}"


def _place(error: BaseException) -> str:
    """Where it was raised, if that is not here."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    return f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""


# ---- checks --------------------------------------------------------------------------------


def checked(made: object, what: str) -> tuple[Tool, ...]:
    """`made` as tools. Raises `PluginError` if it is none, or one of them breaks the port."""
    if not isinstance(made, Sequence) or isinstance(made, str | bytes):
        raise PluginError(f"{what} returned {_a(made)}, and must return a list of tools")
    names: set[str] = set()
    for index, each in enumerate(made):
        problem = guarded(
            f"tool {index} of {what}, asked for its parts,",
            lambda each=each: next(_tool_problems(each), None),  # type: ignore[misc]
        )
        if problem:
            name = getattr(each, "name", None)
            shown = f"{name!r}" if isinstance(name, str) else f"{index} ({_a(each)})"
            raise PluginError(f"tool {shown} of {what}: {problem}")
        if each.name in names:
            raise PluginError(f"{what} returned two tools called {each.name!r}")
        names.add(each.name)
    return tuple(made)


def _tool_problems(tool: object) -> Iterator[str]:
    for attribute in ("name", "description", "parameters", "toolbelt", "where", "effect"):
        if not hasattr(tool, attribute):
            yield f"it has no {attribute!r}; make it with agent_runtime.toolkit.tool"
    if not inspect.iscoroutinefunction(getattr(tool, "execute", None)):
        yield "'execute' must be an async method"
    # Protocols with data members only say that the names are there.
    assert isinstance(tool, Tool)
    for word in ("name", "toolbelt"):
        value: object = getattr(tool, word)
        if not isinstance(value, str) or not NAME_PATTERN.fullmatch(value):
            yield (
                f"its {word} {value!r} must be lower case letters, digits and underscores, "
                f"at most 64, a letter first"
            )
    if not isinstance(tool.description, str) or not tool.description.strip():
        yield "it has no description, and a brain needs one"
    if tool.where not in ("worker", "daemon"):
        yield f"'where' must be 'worker' or 'daemon', got {tool.where!r}"
    if not callable(tool.effect):
        yield "'effect' must be a method (arguments, policy) -> Effect"
    yield from _schema_problems(tool.parameters)


def _schema_problems(parameters: object) -> Iterator[str]:
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        yield f"'parameters' must be a JSON schema of type 'object', got {_a(parameters)}"
        return
    properties = parameters.get("properties", {})
    if not isinstance(properties, Mapping):
        yield "'parameters.properties' must be an object"
        return
    if parameters.get("additionalProperties") is not False:
        yield "'parameters' must say additionalProperties: false"
    for key in parameters.get("required", ()):
        if key not in properties:
            yield f"required argument {key!r} has no schema"
    try:
        msgspec.json.encode(parameters)
    except (TypeError, ValueError) as error:
        yield f"'parameters' is no JSON: {error}"


def _module_problems(module: object) -> Iterator[str]:
    for attribute in ("name", "description"):
        if not isinstance(getattr(module, attribute, None), str):
            yield f"it has no {attribute!r}, which must be a text"
    if not NAME_PATTERN.fullmatch(getattr(module, "name", "")):
        yield "its name must be lower case letters, digits and underscores, a letter first"
    if not callable(getattr(module, "tools", None)):
        yield "it has no method 'tools'"
    for method in ("initialize", "cleanup", "health"):
        if not inspect.iscoroutinefunction(getattr(module, method, None)):
            yield f"it has no async method {method!r}"


def _worker_source(module: Module, workers: Sequence[str], what: str) -> str:
    source = guarded(f"'source' of {what}", lambda: getattr(module, "source", None))
    if not isinstance(source, str):
        raise PluginError(
            f"tool {workers[0]!r} of {what} has where='worker', and a module does not live there: "
            f"give the module source = 'package.module:function', which returns the tool, "
            f"or the tool where='daemon'"
        )
    there = {tool.name for tool in _tools_at(source)}
    for name in workers:
        if name not in there:
            raise PluginError(
                f"{source!r}, the source of {what}, does not return its worker tool {name!r}"
            )
    return source


def _tools_at(source: str) -> tuple[Tool, ...]:
    return checked(called(source), repr(source))


def _for_worker(tools: Sequence[Tool]) -> list[str]:
    return [tool.name for tool in tools if tool.where == "worker"]


def _a(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__!r}"


# ---- where the worker finds it -----------------------------------------------------------------


def import_paths(source: str) -> tuple[str, ...]:
    """The package or module file that makes `source` importable; empty if it is in site-packages.

    A package is handed over by itself, never with the checkout that it lies in.

    Raises:
        PluginError: it cannot be bound: no file, or a namespace package.
    """
    name = source.partition(":")[0].partition(".")[0]
    spec = guarded(f"looking for {name!r}", lambda: importlib.util.find_spec(name))
    origin = spec.origin if spec is not None and spec.has_location else None
    places = [*(spec.submodule_search_locations or ())] if spec is not None else []
    if origin is not None:
        path = os.path.abspath(os.path.dirname(origin) if places else origin)
        if _in_site_packages(path):
            return ()
        if os.path.exists(path):
            return (path,)
    elif places and all(_in_site_packages(os.path.abspath(place)) for place in places):
        return ()
    raise PluginError(
        f"package {name!r} cannot be given to the sandbox: it is outside of site-packages and has "
        f"no '__init__.py' of its own on disk; add one, or install it without --editable"
    )


def _in_site_packages(path: str) -> bool:
    return any(
        os.path.basename(entry) in ("site-packages", "dist-packages")
        and path.startswith(os.path.join(os.path.abspath(entry), ""))
        for entry in sys.path
    )
