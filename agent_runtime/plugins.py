"""Which plug-ins are installed, which may load, and what became of each.

`discover` reads metadata and imports nothing; `load` imports what is allowed. A plug-in that does
not load is quarantined with its reason, and the rest goes on. What a plug-in must look like is
checked in `contributions`, what is done with it is in `toolbox` and `modules.registry`.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from agent_runtime import contributions, schema
from agent_runtime.contributions import Contribution
from agent_runtime.errors import PluginError
from agent_runtime.loop import native
from agent_runtime.ports.modules import Installation

OWN_DISTRIBUTION: Final = "agent-runtime"
"""Its entry points are the built-ins."""
OWN_PACKAGES: Final = ("agent_runtime", "agent_runtime_tools", "agent_runtime_mcp")
"""Every sandbox has them."""
SETTING: Final = "AGENT_RUNTIME_PLUGINS"

TOOLS: Final = "agent_runtime.tools"
MODULES: Final = "agent_runtime.modules"
MODULE_MAKERS: Final = "agent_runtime.module_makers"
MCP_SERVERS: Final = "agent_runtime.mcp_servers"
STORES: Final = "agent_runtime.stores"
MODELS: Final = "agent_runtime.models"
SANDBOXES: Final = "agent_runtime.sandboxes"
GROUPS: Final = (TOOLS, MODULES, MODULE_MAKERS, MCP_SERVERS, STORES, MODELS, SANDBOXES)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """One entry point, as its distribution declares it; nothing of it has been imported."""

    group: str
    name: str
    source: str
    """`module:attribute`."""
    distribution: str
    """Normalised (PEP 503), as the allow-list is compared."""
    version: str = ""

    @property
    def builtin(self) -> bool:
        """Does it come with the runtime itself?"""
        return self.distribution == OWN_DISTRIBUTION

    def __str__(self) -> str:
        version = f" {self.version}" if self.version else ""
        return f"{self.name!r} ({self.group}) of {self.distribution}{version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A plug-in that works, and what it gave."""

    plugin: Plugin
    contribution: Contribution


@dataclass(frozen=True, slots=True, kw_only=True)
class NotLoaded:
    """A plug-in that was left out: why, and the way out."""

    plugin: Plugin
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"plug-in {self.plugin}: {self.reason}; {self.remedy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugins:
    """Everything that was found. A quarantined plug-in is broken, a not allowed one unwanted."""

    loaded: tuple[Loaded, ...] = ()
    quarantined: tuple[NotLoaded, ...] = ()
    not_allowed: tuple[NotLoaded, ...] = ()
    waiting: tuple[Plugin, ...] = ()
    """Allowed ones of the other groups: `load_one` imports each when it is asked for."""
    not_installed: tuple[str, ...] = ()
    """Names on the allow-list of which no installed distribution has a plug-in."""


# ---- finding -------------------------------------------------------------------------------


def normalise(distribution: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def allow_list(setting: str) -> frozenset[str]:
    """The names in `AGENT_RUNTIME_PLUGINS`, which are separated by commas."""
    return frozenset(normalise(name) for name in setting.split(",") if name.strip())


def discover(paths: Sequence[str] | None = None) -> tuple[list[Plugin], list[NotLoaded]]:
    """Every declared plug-in, built-ins first, and the distributions that cannot be read.

    `paths` are searched instead of `sys.path`. As for imports, the first of a name hides the rest.
    """
    plugins: list[Plugin] = []
    unreadable: list[NotLoaded] = []
    seen: set[str] = set()
    # One damaged file must not hide the others, so not `importlib.metadata.entry_points()`.
    search = list(sys.path if paths is None else paths)
    for distribution in importlib.metadata.distributions(path=search):
        place = str(getattr(distribution, "_path", "an installed distribution"))
        try:
            if "agent_runtime." not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name = normalise(distribution.metadata["Name"])
            declared = [] if name in seen else _declared(distribution, name)
        except Exception as error:  # the border to what other people installed
            log.debug("unreadable metadata in %s", place, exc_info=True)
            unreadable.append(_unreadable(place, error))
        else:
            seen.add(name)
            plugins += declared
    plugins.sort(key=lambda p: (not p.builtin, GROUPS.index(p.group), p.distribution, p.name))
    return plugins, unreadable


def _declared(distribution: importlib.metadata.Distribution, name: str) -> list[Plugin]:
    return [
        Plugin(
            group=entry.group,
            name=entry.name,
            # What may follow in brackets (extras) is for installers.
            source=entry.value.partition("[")[0].replace(" ", ""),
            distribution=name,
            version=distribution.metadata["Version"] or "",
        )
        for entry in distribution.entry_points
        if entry.group in GROUPS
    ]


def _unreadable(place: str, error: Exception) -> NotLoaded:
    distribution = normalise(os.path.basename(place).partition("-")[0])
    return NotLoaded(
        plugin=Plugin(group="unknown", name="unknown", source="", distribution=distribution),
        reason=f"its metadata cannot be read: {type(error).__name__}: {error}",
        remedy=f"reinstall it, or remove {place!r}",
    )


# ---- loading -------------------------------------------------------------------------------


def load(
    *,
    allowed: Collection[str] = (),
    paths: Sequence[str] | None = None,
    installation: Installation | None = None,
) -> Plugins:
    """Import the built-in and the allowed tools and modules; never raises because of a plug-in.

    `allowed` are names of distributions (see `allow_list`). Built-ins come first, so that no other
    plug-in can take the name of one of their tools. Makers of modules are asked last, and only
    about an `installation`.
    """
    names = {normalise(name) for name in allowed}
    found, unreadable = discover(paths)
    wanted = [plugin for plugin in found if plugin.builtin or plugin.distribution in names]
    loaded: list[Loaded] = []
    quarantined = list(unreadable)
    owners: dict[tuple[str, str], Plugin] = {}
    for plugin in wanted:
        if plugin.group == MODULE_MAKERS and installation is not None:
            belts = {tool.toolbelt for each in loaded for tool in each.contribution.tools}
            for made in _made(plugin, installation, belts, owners):
                (loaded if isinstance(made, Loaded) else quarantined).append(made)  # type: ignore[arg-type]
        if plugin.group not in (TOOLS, MODULES):
            continue
        try:
            contribution = _contribution(plugin)
            _claim(contribution, plugin, owners)
        except PluginError as error:
            quarantined.append(_quarantined(plugin, error))
            log.warning("quarantined: %s", quarantined[-1])
        else:
            loaded.append(Loaded(plugin=plugin, contribution=contribution))
    return Plugins(
        loaded=tuple(loaded),
        quarantined=tuple(quarantined),
        not_allowed=tuple(_not_allowed(plugin) for plugin in found if plugin not in wanted),
        waiting=tuple(p for p in wanted if p.group not in (TOOLS, MODULES, MODULE_MAKERS)),
        not_installed=tuple(sorted(names - {p.distribution for p in found} - {OWN_DISTRIBUTION})),
    )


def load_one(
    group: str, name: str, *, allowed: Collection[str] = (), paths: Sequence[str] | None = None
) -> object:
    """The object that the plug-in `name` of `group` points at: a store, a model, a sandbox.

    Raises:
        PluginError: there is none, it is not allowed or cannot be imported; with the way out.
    """
    found = [plugin for plugin in discover(paths)[0] if plugin.group == group]
    plugin = next((each for each in found if each.name == name), None)
    if plugin is None:
        known = ", ".join(sorted(each.name for each in found)) or "none"
        guess = schema.nearest(name, [each.name for each in found])
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise PluginError(f"no plug-in of {group} is called {name!r}{hint} (installed: {known})")
    if not plugin.builtin and plugin.distribution not in {normalise(each) for each in allowed}:
        raise PluginError(str(_not_allowed(plugin)))
    try:
        return contributions.imported(plugin.source)
    except PluginError as error:
        raise PluginError(str(_quarantined(plugin, error))) from error


def plugin_paths(plugins: Plugins) -> tuple[str, ...]:
    """Packages and module files that a sandbox must bind so that its worker can import the tools.

    Those of worker tools outside of site-packages, such as editable installs; what lies in
    site-packages, and the runtime's own packages, the sandbox binds anyway.
    """
    return tuple(sorted({path for each in plugins.loaded for path in each.contribution.paths}))


def _made(
    plugin: Plugin,
    installation: Installation,
    belts: Collection[str],
    owners: dict[tuple[str, str], Plugin],
) -> Iterator[Loaded | NotLoaded]:
    """What became of each module of a maker; one that is broken does not stop the others."""
    made = contributions.of_maker(plugin.source, installation, origin=str(plugin))
    while True:
        try:
            each = next(made, None)
            if each is None:
                return
            if isinstance(each, PluginError):
                raise each
            for belt in {tool.toolbelt for tool in each.tools} & set(belts):
                raise PluginError(f"its toolbelt {belt!r} has the name of another: rename it")
            _claim(each, plugin, owners)
            yield Loaded(plugin=plugin, contribution=each)
        except PluginError as error:
            log.warning("quarantined: a module of %s: %s", plugin, error)
            yield _quarantined(plugin, error)


def _contribution(plugin: Plugin) -> Contribution:
    make = contributions.of_tools if plugin.group == TOOLS else contributions.of_module_at
    made = make(plugin.source, origin=str(plugin))
    return replace(
        made, paths=tuple(p for p in made.paths if os.path.basename(p) not in OWN_PACKAGES)
    )


def _claim(
    contribution: Contribution, plugin: Plugin, owners: dict[tuple[str, str], Plugin]
) -> None:
    """Take the names of a contribution's tools and module: all, or none and `PluginError`."""
    keys = [("tool", tool.name) for tool in contribution.tools]
    if contribution.module is not None:
        keys.append(("module", contribution.module.name))
    for kind, name in keys:
        if kind == "tool" and name in native.NAMES:
            raise PluginError(f"its tool {name!r} has the name of one that the runtime answers")
        if owner := owners.get((kind, name)):
            raise PluginError(f"its {kind} {name!r} has the name of one of plug-in {owner}")
    owners.update(dict.fromkeys(keys, plugin))


def _not_allowed(plugin: Plugin) -> NotLoaded:
    return NotLoaded(
        plugin=plugin,
        reason="it is installed and not allowed",
        remedy=f"to load it, add {plugin.distribution!r} to {SETTING} (separated by commas)",
    )


def _quarantined(plugin: Plugin, error: PluginError) -> NotLoaded:
    remedy = (
        f"reinstall {OWN_DISTRIBUTION}"
        if plugin.builtin
        else f"update or uninstall {plugin.distribution}, or take it off {SETTING}"
    )
    return NotLoaded(plugin=plugin, reason=str(error), remedy=remedy)
