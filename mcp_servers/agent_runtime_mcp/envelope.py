"""What a client says of itself and of a request, in the form in which the protocol has it. Pure.

The short way takes only what is right for sure; anything else goes the long way, where the SDK says
what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from agent_runtime.types import Json
from agent_runtime_mcp.wire import META_CAPABILITIES, META_CLIENT, META_VERSION, MODERN

_Object = dict[str, Json]
_Level = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]


class _Roots(msgspec.Struct, gc=False):
    changes: bool | None = msgspec.field(name="listChanged", default=None)


class _Sampling(msgspec.Struct, gc=False):
    context: _Object | None = None
    tools: _Object | None = None


class _Elicitation(msgspec.Struct, gc=False):
    form: _Object | None = None
    url: _Object | None = None


class _Tasks(msgspec.Struct, gc=False):
    list: _Object | None = None
    cancel: _Object | None = None
    requests: dict[str, dict[str, _Object]] | None = None


class ClientCapabilities(msgspec.Struct, gc=False):
    """What it can do."""

    experimental: dict[str, _Object] | None = None
    extensions: dict[str, _Object] | None = None
    sampling: _Sampling | None = None
    elicitation: _Elicitation | None = None
    roots: _Roots | None = None
    tasks: _Tasks | None = None


class _Icon(msgspec.Struct, gc=False):
    src: str
    mime_type: str | None = msgspec.field(name="mimeType", default=None)
    sizes: list[str] | None = None
    theme: Literal["light", "dark"] | None = None


class ClientInfo(msgspec.Struct, gc=False):
    """Who it is."""

    name: str
    version: str
    title: str | None = None
    description: str | None = None
    website: str | None = msgspec.field(name="websiteUrl", default=None)
    icons: list[_Icon] | None = None


class _Session(msgspec.Struct, gc=False):
    """`_meta` of a request in a session."""

    progress: int | str = msgspec.field(name="progressToken", default="")


class _Stateless(_Session, gc=False):
    """`_meta` of a request that says everything for itself."""

    version: str = msgspec.field(name=META_VERSION, default="")
    capabilities: ClientCapabilities = msgspec.field(
        name=META_CAPABILITIES, default_factory=ClientCapabilities
    )
    client: ClientInfo | None = msgspec.field(name=META_CLIENT, default=None)
    level: _Level = msgspec.field(name="io.modelcontextprotocol/logLevel", default="info")


_convert: Final = msgspec.convert


def is_stateless(meta: object) -> bool:
    """Does a request say for itself, in our version, what the stateless wire wants to know?"""
    if not isinstance(meta, dict) or META_CAPABILITIES not in meta:
        return False
    return meta.get(META_VERSION) == MODERN and _fits(meta, _Stateless)


def is_of_session(meta: object) -> bool:
    """Is there nothing in `_meta` that would have to be looked at in a session?"""
    if not isinstance(meta, dict):
        return meta is msgspec.UNSET
    return META_VERSION not in meta and _fits(meta, _Session)


def _fits(meta: Mapping[str, Json], form: type[_Session]) -> bool:
    try:
        _convert(meta, form)
    except msgspec.ValidationError:
        return False
    return True
