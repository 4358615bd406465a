"""A server as a module, and its tools: what is allowed, what a lost call means, what is shown.

The tools are those that the operator has consented to. What the server says now is compared with
them on every connection; a tool that has become another is refused until somebody looks. Nothing is
opened before the first task needs it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import anyio.to_thread

from agent_runtime.errors import ConfigError, PluginError, ResultLost, ToolRefused
from agent_runtime.ports import Installation, ModuleContext, OfferedTool, RemoteOffer, Tool
from agent_runtime.redaction import Redactor
from agent_runtime.remote_servers import SECRET, RemoteServer, endpoint, filled, secrets_of
from agent_runtime.secret_sources import read_secret
from agent_runtime.types import (
    Effect,
    EffectPolicy,
    FailureKind,
    Json,
    ToolCall,
    ToolResult,
    Where,
)
from agent_runtime_mcp.client import kept, schemas
from agent_runtime_mcp.client.attaching import Calls, Sent
from agent_runtime_mcp.client.effects import effect_of, needs_task, offers_task
from agent_runtime_mcp.client.link import PATIENCE, Link, Patience, Unreachable
from agent_runtime_mcp.client.names import (
    DESCRIPTION_CHARS_MAX,
    LIST_RESOURCES,
    READ_RESOURCE,
    harmless,
    tool_names,
)
from agent_runtime_mcp.wire import META_KEY

if TYPE_CHECKING:  # see `link`
    from mcp.client.session import ElicitationFnT

    from agent_runtime_mcp.client.guard import Guard
    from agent_runtime_mcp.client.live import Live
    from agent_runtime_mcp.client.web import Auth

TASK_TTL_MS: Final = 24 * 3600 * 1000
"""How long a server is asked to keep a task: a daemon may be down for a night."""
INVALID_PARAMS: Final = -32602
ERROR_CHARS_MAX: Final = 2000
NAME_CHARS_SHOWN: Final = 200
LITERAL_CHARS_MIN: Final = 12
"""A shorter text of a declaration is a word like any other, and stays in what is shown."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RemoteTool:
    """A tool of a server: fits `ports.Tool` and `ports.AttachingTool`."""

    name: str
    description: str
    parameters: Mapping[str, Json]
    toolbelt: str
    open: bool
    definition: Mapping[str, Json]
    """As the operator consented to it; empty for the two that read resources."""
    fixed_effect: Effect
    run: Callable[[RemoteTool, ToolCall], Awaitable[ToolResult]]
    known: Callable[[ToolCall], bool]
    where: Where = "daemon"

    def effect(self, arguments: Mapping[str, Json], policy: EffectPolicy) -> Effect:
        """What is believed of this tool."""
        return self.fixed_effect

    async def execute(self, call: ToolCall) -> ToolResult:
        """Call the server. `ResultLost`: it died under the call; `TimeoutError`: no answer."""
        return await self.run(self, call)

    async def attached(self, call: ToolCall) -> bool:
        """See `ports.AttachingTool`."""
        return self.fixed_effect is not Effect.TASK or self.known(call)


class RemoteModule:
    """Fits `ports.Module` and `ports.ConsentingModule`."""

    def __init__(
        self,
        name: str,
        server: RemoteServer,
        installation: Installation,
        *,
        patience: Patience = PATIENCE,
        auth: Auth | None = None,
        ask: ElicitationFnT | None = None,
    ) -> None:
        """`auth` and `ask` stand in for a declaration's credentials and for a person."""
        self.name = name
        self.server = server
        self._installation = installation
        self._patience, self._auth, self._ask = patience, auth, ask
        self._path = kept.path_of(installation.state_dir, name)
        self._consent: tuple[object, kept.Definitions | None] | None = None
        """As the file was, and what it said."""
        self._now: kept.Definitions | None = None
        """What the server said last."""
        self._link: Link | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._redactor = Redactor({})
        self._last_words: Callable[[], str] = str
        self._calls = Calls(os.path.join(installation.state_dir, "mcp", f"{name}.calls"))

    @property
    def endpoint(self) -> str:
        """See `ports.ConsentingModule`."""
        return endpoint(self.server)

    @property
    def connected(self) -> bool:
        """Is there a connection just now?"""
        return self._link is not None and self._link.connected

    @property
    def description(self) -> str:
        """What `modules` shows."""
        where = harmless(self.endpoint, 120)
        return f"The MCP server {self.name}, {'at' if self.server.remote else 'run as'} {where}."

    # ---- tools -------------------------------------------------------------------------------

    def tools(self) -> Sequence[Tool]:
        """Those that were consented to and are wanted.

        Raises:
            PluginError: what was consented to cannot be read.
        """
        consented = kept.read(self._path, self.endpoint).consented
        if consented is None:
            return ()
        named = {n: d for n, d in consented.named().items() if self._wanted(n)}
        ours = tool_names(self.name, list(named))
        made = [self._tool(ours[name], each, consented) for name, each in named.items()]
        return [*made, *(self._resource_tools() if consented.resources else ())]

    def _wanted(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.server.tools)

    def _effect(self, definition: Mapping[str, Json], definitions: kept.Definitions) -> Effect:
        tasks = offers_task(definition, definitions.tasks)
        return effect_of(self.server, definition, tasks=tasks)

    def _tool(
        self, name: str, definition: Mapping[str, Json], definitions: kept.Definitions
    ) -> RemoteTool:
        said = harmless(definition.get("description") or definition.get("title"),
                        DESCRIPTION_CHARS_MAX)  # fmt: skip
        return RemoteTool(
            name=name,
            # Whose words these are, for the brain: a description may try to give orders.
            description=f"(MCP server {self.name}) "
            f"{said or harmless(definition['name'], NAME_CHARS_SHOWN)}",
            parameters=schemas.adapted(definition.get("inputSchema")),
            toolbelt=self.name,
            open=self.server.tasks == "all",
            definition=definition,
            fixed_effect=self._effect(definition, definitions),
            run=self._call,
            known=self._known,
        )

    def _resource_tools(self) -> Sequence[RemoteTool]:
        def made(name: str, description: str, properties: dict[str, Json]) -> RemoteTool:
            return RemoteTool(
                name=f"{self.name}__{name}",
                description=description,
                parameters={
                    "type": "object", "properties": properties, "required": list(properties),
                    "additionalProperties": False,
                },
                toolbelt=self.name,
                open=self.server.tasks == "all",
                definition={},
                fixed_effect=Effect.READ,
                run=self._list_resources if name == LIST_RESOURCES else self._read_resource,
                known=self._known,
            )  # fmt: skip

        uri = {"type": "string", "description": "As the list has it.", "maxLength": 2000}
        return [
            made(LIST_RESOURCES, f"List the resources of the MCP server {self.name}.", {}),
            made(READ_RESOURCE, f"Read one resource of the MCP server {self.name}.", {"uri": uri}),
        ]

    # ---- life --------------------------------------------------------------------------------

    async def initialize(self, context: ModuleContext) -> None:
        """Get ready. The server is started or reached by the first call: one that is down for an
        hour must not be in quarantine until the runtime is started again."""
        await anyio.to_thread.run_sync(self._calls.prune)
        self._tasks = await anyio.create_task_group().__aenter__()
        self._link = self._new_link(self._tasks)

    async def cleanup(self) -> None:
        """End the connection, and the program."""
        tasks, self._tasks, self._link = self._tasks, None, None
        if tasks is not None:
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(None, None, None)

    async def health(self) -> str | None:
        """What keeps its tools from being used."""
        troubles = [self.standing(), self._link.trouble() if self._link is not None else ""]
        return "; ".join(each for each in troubles if each) or None

    def _new_link(self, tasks: anyio.abc.TaskGroup) -> Link:
        return Link(
            self.name,
            self._connection,
            tasks,
            start_seconds=self.server.start_seconds,
            described=self._described,
            last_words=lambda: self._last_words(),
            redacted=self._shown,
            patience=self._patience,
        )

    @asynccontextmanager
    async def _connection(self, guard: Guard) -> AsyncIterator[Live]:
        # Here the SDK is imported, in the daemon, when the first task needs a server.
        from agent_runtime_mcp.client import live, pipes, web

        secrets = await anyio.to_thread.run_sync(self._secrets)
        options = live.Options(
            wire=self.server.wire,
            remote=self.server.remote,
            ask=self._ask,
            changed=lambda: self._link.changed() if self._link is not None else None,
        )
        if self.server.remote:
            transport = web.reached(self.server, secrets, guard, auth=self._auth)
        else:
            tail = pipes.Tail()
            self._last_words = lambda: str(tail)
            home = os.path.join(self._installation.state_dir, "mcp", f"{self.name}.home")
            os.makedirs(home, mode=0o700, exist_ok=True)
            program = pipes.Program(
                name=self.name,
                server=self.server,
                argv=[self.server.command, *(filled(a, secrets) for a in self.server.args)],
                env={key: filled(value, secrets) for key, value in self.server.env.items()},
                home=home,
            )
            transport = pipes.running(program, self._installation.sandbox, guard, tail)
        async with live.connected(transport, guard, options) as connection:
            yield connection

    def _secrets(self) -> dict[str, str]:
        found = {}
        for name in sorted(secrets_of(self.server)):
            source = self._installation.secrets.get(name)
            if source is None:
                raise ConfigError(
                    f"mcp_servers.{self.name} needs the secret {name!r}, and the setting secrets "
                    f"does not know it: add {name}: env:{name}, say"
                )
            found[name] = read_secret(name, source, self._installation.environ)
        self._redactor = Redactor({**_literals(self.server), **found})
        return found

    # ---- consent -----------------------------------------------------------------------------

    def _described(self, definitions: kept.Definitions) -> None:
        """Compare what the server says with what was consented to; keep what is new."""
        self._now = definitions
        with kept.locked(self._path):
            before = kept.read(self._path, self.endpoint)
            if before.consented is None:
                return
            seen = None if _alike(before.consented, definitions) else definitions
            if (seen is None) != (before.seen is None) or (
                seen and before.seen and not _alike(before.seen, seen)
            ):
                kept.write(
                    self._path,
                    kept.Kept(endpoint=self.endpoint, consented=before.consented, seen=seen),
                )

    def standing(self) -> str:
        """See `ports.ConsentingModule`."""
        found = kept.read(self._path, self.endpoint)
        way = f"look with `agent-runtime mcp consent {self.name}`"
        if found.consented is None:
            return f"nobody has consented to its tools: {way}"
        if found.seen is None:
            return ""
        names = sorted({*found.consented.named(), *found.seen.named()})
        changes = {name: kept.change(name, found.consented, found.seen) for name in names}
        told = [
            f"{sum(each == kind for each in changes.values())} {kind}"
            for kind in ("changed", "new", "gone")
            if kind in changes.values()
        ]
        return f"its tools are not those that were consented to ({', '.join(told)}): {way}"

    async def offered(self) -> RemoteOffer:
        """See `ports.ConsentingModule`."""
        definitions: list[kept.Definitions] = []
        problem = ""
        async with anyio.create_task_group() as tasks:
            link = Link(
                self.name, self._connection, tasks, start_seconds=self.server.start_seconds,
                described=definitions.append, patience=self._patience,
                last_words=lambda: self._last_words(), redacted=self._shown, logs=False,
            )  # fmt: skip
            try:
                await link.live()
            except (Unreachable, ToolRefused) as error:
                problem = str(error)
            finally:
                tasks.cancel_scope.cancel()
        if problem or not definitions:
            raise PluginError(problem or f"server {self.name!r} gave no list of tools")
        now, before = definitions[-1], kept.read(self._path, self.endpoint).consented
        names = sorted({*now.named(), *(before.named() if before is not None else ())})
        ours = tool_names(self.name, names)
        return RemoteOffer(
            server=harmless(now.server, 200),
            wire=now.wire,
            endpoint=self.endpoint,
            resources=now.resources,
            definitions=now,
            tools=tuple(
                self._offered(name, ours[name], before, now) for name in names if self._wanted(name)
            ),
        )

    def _offered(
        self, name: str, ours: str, before: kept.Definitions | None, now: kept.Definitions
    ) -> OfferedTool:
        definition = now.named().get(name) or (before.named()[name] if before else {})
        change = kept.change(name, before, now)
        return OfferedTool(
            name=harmless(name, 200),
            tool=ours,
            description=harmless(definition.get("description"), DESCRIPTION_CHARS_MAX),
            effect=self._effect(definition, now),
            change=change,
            diff=harmless(kept.difference(name, before, now), 20_000)
            if change == "changed"
            else "",
        )

    def consent(self, offer: RemoteOffer | None) -> None:
        """See `ports.ConsentingModule`."""
        consented = None if offer is None else offer.definitions
        assert consented is None or isinstance(consented, kept.Definitions)
        with kept.locked(self._path):
            kept.write(self._path, kept.Kept(endpoint=self.endpoint, consented=consented))

    def _consented(self) -> kept.Definitions | None:
        """What is consented to now; read again when another process has written it."""
        stamp = kept.stamp(self._path)
        if self._consent is None or self._consent[0] != stamp:
            self._consent = (stamp, kept.read(self._path, self.endpoint).consented)
        return self._consent[1]

    def _require_consent(self) -> kept.Definitions:
        if (consented := self._consented()) is None:
            raise ToolRefused(
                f"consent to server {self.name!r} was taken back: none of its tools is used until "
                f"`agent-runtime mcp consent {self.name}`"
            )
        return consented

    def _require_same(self, tool: RemoteTool) -> None:
        """`ToolRefused` if this tool is not consented to as the server offers it now."""
        consented = self._require_consent()
        name, now = str(tool.definition["name"]), self._now
        assert now is not None, "a connection has listed its tools"
        if name not in now.named():
            shown = harmless(name, NAME_CHARS_SHOWN)
            raise ToolRefused(f"server {self.name!r} does not offer {shown!r} any more")
        if kept.change(name, consented, now) == "same":
            return
        diff = harmless(kept.difference(name, consented, now), 3000)
        raise ToolRefused(
            f"server {self.name!r} has changed the tool {tool.name!r} since somebody consented to "
            f"it; it is refused until `agent-runtime mcp consent {self.name}`\n{diff}"
        )

    # ---- calls -------------------------------------------------------------------------------

    def _known(self, call: ToolCall) -> bool:
        sent = self._calls.find(call.idempotency_key)
        return sent is None or bool(sent.task_id)

    async def _call(self, tool: RemoteTool, call: ToolCall) -> ToolResult:
        """One call, until its result, a refusal, or the certainty that there will be none."""
        from agent_runtime_mcp.client.results import result_of

        name = str(tool.definition["name"])
        arguments = schemas.unfolded(call.arguments, tool.definition.get("inputSchema"))
        task = tool.fixed_effect is Effect.TASK
        meta = {META_KEY: call.idempotency_key} if tool.fixed_effect in (
            Effect.IDEMPOTENT, Effect.TASK,
        ) else {}  # fmt: skip
        became = self._calls.find(call.idempotency_key) if task else None

        def begun(task_id: str) -> None:
            nonlocal became
            became = Sent(task_id)
            if task:
                self._calls.write(call.idempotency_key, became)

        async def once(live: Live) -> ToolResult:
            nonlocal became
            if became is not None and became.task_id:
                return result_of(await live.attach(became.task_id), self._notes())
            self._require_same(tool)
            if task:
                became = Sent()
                self._calls.write(call.idempotency_key, became)
            answer = await live.call(
                name,
                arguments,
                meta=meta,
                as_task=needs_task(tool.definition)
                or (task and self._now is not None and self._now.tasks == "2025-11-25"),
                ttl_ms=TASK_TTL_MS,
                begun=begun,
            )
            return result_of(answer, self._notes())

        def lost() -> bool:
            return became is None or not became.task_id

        def unsent() -> None:
            if task and lost():
                self._calls.forget(call.idempotency_key)

        async def overdue(live: Live) -> None:
            if became is not None and became.task_id:
                await live.stop_task(became.task_id)

        return await self._asked(call, once, lost=lost, unsent=unsent, overdue=overdue)

    async def _list_resources(self, tool: RemoteTool, call: ToolCall) -> ToolResult:
        async def once(live: Live) -> ToolResult:
            self._require_consent()
            listed = await live.resources()
            return ToolResult(ok=True, output="\n".join([*self._notes(), harmless(listed, 9000)]))

        return await self._asked(call, once)

    async def _read_resource(self, tool: RemoteTool, call: ToolCall) -> ToolResult:
        from agent_runtime_mcp.client.results import resource_of

        async def once(live: Live) -> ToolResult:
            self._require_consent()
            return resource_of(await live.read(str(call.arguments["uri"])), self._notes())

        return await self._asked(call, once)

    async def _asked(
        self,
        call: ToolCall,
        once: Callable[[Live], Awaitable[ToolResult]],
        *,
        lost: Callable[[], bool] = lambda: True,
        unsent: Callable[[], None] = lambda: None,
        overdue: Callable[[Live], Awaitable[None]] | None = None,
    ) -> ToolResult:
        """Run `once` on a connection. While not `lost()`, a new one goes on where it was.

        `unsent` is told that the server got nothing, `overdue` that the time is up.

        Raises:
            ResultLost, TimeoutError, ToolRefused: as `ports.Tool.execute` may.
        """
        from mcp.shared.exceptions import MCPError

        from agent_runtime_mcp.client.live import Gone, NeverSent

        assert self._link is not None, "tools of a module are called while it lives"
        link = self._link
        # A little less than the loop waits: then it is we who know that it was the server.
        margin = min(1.0, call.timeout_seconds / 10)
        seconds = min(call.timeout_seconds - margin, self.server.timeout_seconds)
        live: Live | None = None
        try:
            with anyio.fail_after(seconds):
                while True:
                    try:
                        live = await link.live()
                        result = await once(live)
                    except Unreachable as error:
                        if not lost():
                            continue  # its task goes on without us; `link` waits longer each time
                        return self._failed("transient", str(error))
                    except ToolRefused as error:
                        if lost():
                            raise
                        # Its task goes on, and what becomes of it is not known.
                        raise ResultLost(str(error)) from None
                    except NeverSent as error:
                        unsent()
                        return self._failed("transient", f"server {self.name!r}: {error}")
                    except Gone as error:
                        if not lost():
                            continue
                        raise ResultLost(
                            self._shown(f"server {self.name!r} gave no result: {error}")
                        ) from None
                    except MCPError as error:
                        link.answered()
                        kind: FailureKind = (
                            "bad_input" if error.error.code == INVALID_PARAMS else "failed"
                        )
                        return self._failed(kind, error.error.message)
                    link.answered()
                    return self._without_secrets(result)
        except TimeoutError:
            if live is not None:
                if overdue is not None:
                    with anyio.move_on_after(margin * 0.8), suppress(Gone, NeverSent, MCPError):
                        await overdue(live)
                if lost():  # else its task was asked for all the time, and was only long
                    link.silent()
            raise TimeoutError(
                f"server {self.name!r} gave no answer within {seconds:g} s"
            ) from None

    def _notes(self) -> list[str]:
        return self._link.take_notes() if self._link is not None else []

    def _failed(self, kind: FailureKind, message: str) -> ToolResult:
        said = "\n".join([*self._notes(), harmless(self._shown(message), ERROR_CHARS_MAX)])
        return ToolResult(ok=False, kind=kind, output=said)

    def _shown(self, text: str) -> str:
        return self._redactor.text(text)

    def _without_secrets(self, result: ToolResult) -> ToolResult:
        if not self._redactor:
            return result
        return replace(
            result,
            output=self._redactor.text(result.output),
            raw=None if result.raw is None else self._redactor.redact(result.raw),
            data=self._redactor.json(result.data),
        )


def _literals(server: RemoteServer) -> dict[str, str]:
    """What was written into the declaration in place of `${NAME}`: it is kept secret, too."""
    told = {**server.env, "bearer": server.bearer}
    for key, value in server.headers.items():
        # `Bearer …`: a server may repeat the last word alone.
        word = value.rpartition(" ")[2]
        told[key] = word if len(word) >= LITERAL_CHARS_MIN else value
    if server.oauth is not None:
        told["client_secret"] = server.oauth.client_secret
    return {
        key: value
        for key, value in told.items()
        if len(value) >= LITERAL_CHARS_MIN and not SECRET.search(value)
    }


def _alike(before: kept.Definitions, now: kept.Definitions) -> bool:
    names = {*before.named(), *now.named()}
    return all(kept.change(name, before, now) == "same" for name in names)
