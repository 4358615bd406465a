"""What a call of a remote tool changes: what the operator says, else what is believed. Pure.

Hints are claims. Whoever trusts none gets `once`: without a result, such a call is never repeated.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent_runtime.remote_servers import RemoteServer
from agent_runtime.types import Effect, Json


def effect_of(server: RemoteServer, definition: Mapping[str, Json], *, tasks: bool) -> Effect:
    """The effect of a tool by its definition. `tasks`: the server offers tasks for it."""
    declared = server.effects.get(str(definition["name"]))
    if declared == "task" and not tasks:
        return Effect.ONCE  # nothing to attach to
    if declared is not None:
        return Effect(declared)
    hints = definition.get("annotations")
    if server.trust != "hints" or not isinstance(hints, Mapping):
        return Effect.ONCE
    if hints.get("readOnlyHint") is True:
        return Effect.READ
    if hints.get("idempotentHint") is True:
        return Effect.IDEMPOTENT
    return Effect.ONCE


def offers_task(definition: Mapping[str, Json], form: str) -> bool:
    """May a call of this tool become a task of the server's? In the form of 2026 it decides."""
    if form == "2026-07-28":
        return True
    execution = definition.get("execution")
    support = execution.get("taskSupport") if isinstance(execution, Mapping) else None
    return form == "2025-11-25" and support in ("optional", "required")


def needs_task(definition: Mapping[str, Json]) -> bool:
    """In the form of 2025-11-25: does the tool answer no plain call?"""
    execution = definition.get("execution")
    return isinstance(execution, Mapping) and execution.get("taskSupport") == "required"
