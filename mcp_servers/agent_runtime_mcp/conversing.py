"""`Asked` over the SDK: one code for servers, whichever revision their client speaks.

On the wires with sessions a question goes to the client while the call is open. On the stateless
one the call ends with what is asked, and comes again with the answers; those of earlier rounds
travel in `requestState`, which the SDK seals for this request and this caller.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final

import mcp_types as types
import msgspec
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError, NoBackChannelError
from mcp.shared.message import ServerMessageMetadata
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agent_runtime.access.callers import Caller
from agent_runtime.types import Json
from agent_runtime_mcp.definitions import Unsupported
from agent_runtime_mcp.wire import mapping

Context = ServerRequestContext[Any, Any]

_CAPABILITIES: Final = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""What a client must have said that it can do, by method."""

_REQUESTS: Final[Mapping[str, tuple[type[Any], type[Any]]]] = {
    "elicitation/create": (types.ElicitRequest, types.ElicitResult),
    "sampling/createMessage": (types.CreateMessageRequest, types.CreateMessageResult),
    "roots/list": (types.ListRootsRequest, types.ListRootsResult),
}


class InputNeeded(Exception):
    """The request ends here with questions; carries the result that says so."""

    def __init__(self, result: dict[str, Json]) -> None:
        super().__init__("the client is asked")
        self.result = result


class Rounds(msgspec.Struct, frozen=True):
    """What `requestState` carries: the server's own text, and answers of earlier rounds."""

    state: str = ""
    answers: dict[str, Json] = {}


class Conversation:
    """One request, as `definitions.Asked`."""

    def __init__(self, context: Context, caller: Caller, query: Mapping[str, str]) -> None:
        self._context = context
        self.caller = caller
        self.query = query
        self._params = mapping(context.params)
        self._modern = context.protocol_version in MODERN_PROTOCOL_VERSIONS
        self._rounds = _rounds(self._params.get("requestState")) if self._modern else Rounds()

    @property
    def client(self) -> str:
        """Name and version it gives itself."""
        params = self._context.session.client_params
        return f"{params.client_info.name} {params.client_info.version}" if params else ""

    @property
    def meta(self) -> Mapping[str, Json]:
        """`_meta` of the request."""
        return mapping(self._params.get("_meta"))

    @property
    def state(self) -> str:
        """Of the round before."""
        return self._rounds.state

    def can(self, capability: str) -> bool:
        """Has the client said so?"""
        said = self._context.session.client_capabilities
        return said is not None and getattr(said, capability, None) is not None

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """As `notifications/progress`, where a token came with the request."""
        await self._context.session.report_progress(progress, total, message)

    async def log(self, level: str, data: Json, logger: str | None = None) -> None:
        """As `notifications/message`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MCPDeprecationWarning)
            await self._context.session.send_log_message(
                level,  # type: ignore[arg-type]
                data,
                logger,
                related_request_id=self._context.request_id,
            )

    async def ask(
        self, questions: Mapping[str, tuple[str, Mapping[str, Json]]], *, state: str = ""
    ) -> Mapping[str, Mapping[str, Json]]:
        """Ask while the request is open, or end it with the questions."""
        for method, _ in questions.values():
            if not self.can(_CAPABILITIES[method]):
                raise Unsupported(f"the client does not say that it can {_CAPABILITIES[method]}")
        if not self._modern:
            return {
                name: await self.request(method, params)
                for name, (method, params) in questions.items()
            }
        known = {**self._rounds.answers, **mapping(self._params.get("inputResponses"))}
        if all(isinstance(known.get(name), Mapping) for name in questions):
            return {name: known[name] for name in questions}
        rounds = Rounds(state or self._rounds.state, {k: v for k, v in known.items() if v})
        missing = {
            name: {"method": method, "params": dict(params)}
            for name, (method, params) in questions.items()
            if not isinstance(known.get(name), Mapping)
        }
        raise InputNeeded(
            {
                "resultType": "input_required",
                "inputRequests": missing,
                "requestState": msgspec.json.encode(rounds).decode(),
            }
        )

    async def request(self, method: str, params: Mapping[str, Json]) -> Mapping[str, Json]:
        """Ask the client while the request is open; its result.

        Raises:
            Unsupported: it cannot be asked, refuses, or answers what is none.
        """
        request_type, result_type = _REQUESTS[method]
        request = request_type.model_validate({"method": method, "params": dict(params)})
        metadata = ServerMessageMetadata(related_request_id=self._context.request_id)
        try:
            result = await self._context.session.send_request(
                request, result_type, metadata=metadata
            )
        except NoBackChannelError:
            raise Unsupported("there is no way to ask this client anything") from None
        except MCPError as error:
            raise Unsupported(f"the client refused {method}: {error}") from error
        except ValueError as error:
            raise Unsupported(f"what the client said to {method} is no answer: {error}") from error
        dumped: dict[str, Json] = result.model_dump(by_alias=True, mode="json", exclude_none=True)
        return dumped


def _rounds(state: Json) -> Rounds:
    if not isinstance(state, str) or not state:
        return Rounds()
    try:
        return msgspec.json.decode(state, type=Rounds)
    except msgspec.MsgspecError:
        return Rounds()
