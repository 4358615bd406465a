"""Every registered tool behind one door, and its toolbelts: the port `Toolbox`.

Tools come from `contributions`; the modules behind a toolbelt are started and stopped by
`modules.registry`. The standard toolbelt is always on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final

from agent_runtime import schema
from agent_runtime.contributions import Contribution
from agent_runtime.errors import NotFound
from agent_runtime.modules.registry import ModuleRegistry
from agent_runtime.plugins import Plugins
from agent_runtime.ports.tools import Tool
from agent_runtime.types import ToolInfo

STANDARD: Final = "standard"


class PluginToolbox:
    """Fits `ports.Toolbox`; an async context manager, because modules live in it.

    Without `async with`, everything works but toolbelts that a module is behind.
    """

    def __init__(
        self,
        contributions: Iterable[Contribution] = (),
        *,
        state_dir: str = "",
        shared_dir: str = "",
        settings: Mapping[str, Mapping[str, str]] = {},
    ) -> None:
        """`state_dir` is the runtime's own: modules get theirs in it. `settings`: one a module.

        `shared_dir` is `ModuleContext.shared_dir` of all of them.
        """
        self._tools: dict[str, Tool] = {}
        self._infos: dict[str, ToolInfo] = {}
        self._modules_of: dict[str, list[str]] = {}
        self._active: dict[str, int] = {}
        modules = []
        for contribution in contributions:
            self._add(contribution)
            if contribution.module is not None:
                modules.append(contribution.module)
        self._sorted = tuple(self._infos[name] for name in sorted(self._infos))
        modules_dir = os.path.join(state_dir, "modules") if state_dir else ""
        self.modules = ModuleRegistry(
            modules, state_dir=modules_dir, shared_dir=shared_dir, settings=settings
        )

    @classmethod
    def from_plugins(
        cls,
        plugins: Plugins,
        *,
        state_dir: str = "",
        shared_dir: str = "",
        settings: Mapping[str, Mapping[str, str]] = {},
    ) -> PluginToolbox:
        """A toolbox of everything that `plugins.load` loaded."""
        return cls(
            (each.contribution for each in plugins.loaded),
            state_dir=state_dir,
            shared_dir=shared_dir,
            settings=settings,
        )

    async def __aenter__(self) -> PluginToolbox:
        await self.modules.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Stop every module; bounded, also under a cancellation."""
        return await self.modules.__aexit__(kind, error, traceback)

    def find(self, name: str) -> ToolInfo | None:
        """The tool's face, or None."""
        return self._infos.get(name)

    def all(self) -> Sequence[ToolInfo]:
        """Sorted by name."""
        return self._sorted

    def get(self, name: str) -> Tool:
        """The tool itself. `NotFound` names the nearest."""
        if (tool := self._tools.get(name)) is not None:
            return tool
        guess = schema.nearest(name, self._tools)
        hint = f"did you mean {guess!r}?" if guess else "`agent-runtime tools` lists them"
        raise NotFound(f"no tool is called {name!r}; {hint}")

    async def activate(self, toolbelt: str) -> Sequence[str]:
        """Start the modules behind a toolbelt and return its tools' names, sorted.

        Raises:
            NotFound: nobody contributes it.
            PluginError: its module did not start; it is quarantined.
        """
        names = [info.name for info in self._sorted if info.toolbelt == toolbelt]
        if not names and toolbelt != STANDARD:
            raise self._no_toolbelt(toolbelt)
        started: list[str] = []
        try:
            for module in self._modules_of.get(toolbelt, ()):
                await self.modules.acquire(module)
                started.append(module)
        except BaseException:
            for module in started:
                self.modules.leave(module)
            raise
        self._active[toolbelt] = self._active.get(toolbelt, 0) + 1
        return names

    async def deactivate(self, toolbelt: str) -> None:
        """Undo one `activate`; the last one stops the modules. Never raises for their faults."""
        if not self._active.get(toolbelt):
            return
        self._active[toolbelt] -= 1
        modules = self._modules_of.get(toolbelt, ())
        # All are let go before the first is waited for: a cancellation may strike in between.
        stopping = [module for module in modules if self.modules.leave(module)]
        for module in stopping:
            await self.modules.stopped(module)

    def _add(self, contribution: Contribution) -> None:
        for tool in contribution.tools:
            assert tool.name not in self._tools, f"two tools are called {tool.name!r}"
            self._tools[tool.name] = tool
            self._infos[tool.name] = ToolInfo(
                name=tool.name,
                description=tool.description,
                parameters=tool.parameters,
                toolbelt=tool.toolbelt,
                where=tool.where,
                source=contribution.sources.get(tool.name, ""),
                about=contribution.module.description if contribution.module else "",
                open=getattr(tool, "open", False) is True,
            )
            if contribution.module is not None:
                modules = self._modules_of.setdefault(tool.toolbelt, [])
                if contribution.module.name not in modules:
                    modules.append(contribution.module.name)

    def _no_toolbelt(self, toolbelt: str) -> NotFound:
        known = sorted({info.toolbelt for info in self._sorted} | {STANDARD})
        guess = schema.nearest(toolbelt, known)
        hint = f"did you mean {guess!r}? " if guess else ""
        return NotFound(
            f"no toolbelt is called {toolbelt!r}; {hint}(installed: {', '.join(known)})"
        )
