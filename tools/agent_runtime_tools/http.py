"""`http`: one request to a server that the task may reach.

It runs in the worker and goes the way that every program of the sandbox goes: through the proxy
that its environment names, which knows the task's rules. What a call changes is read from its
method, as RFC 9110 (section 9.2) has it; who knows the server better states another effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from agent_runtime.toolkit import OUTPUT_CHARS_MAX, cap, tool
from agent_runtime.types import Effect, EffectPolicy, Json, ToolCall, ToolResult

if TYPE_CHECKING:  # every import here costs a worker's start
    from agent_runtime.ports import Tool
    from agent_runtime_tools._exchange import Answer

TIMEOUT_SECONDS_MAX: Final = 86_400
REDIRECTS: Final = 5
REDIRECTS_MAX: Final = 20
SAFE: Final = ("GET", "HEAD", "OPTIONS")
_EFFECTS: Final = {
    **dict.fromkeys(SAFE, Effect.READ),
    "PUT": Effect.IDEMPOTENT,
    "DELETE": Effect.IDEMPOTENT,
}
_HTTP_ERROR: Final = 22
"""The exit code of `curl --fail`."""
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""What may be over in a moment."""


def tools() -> Sequence[Tool]:
    """The entry point."""
    return [http]


def effect_of(arguments: Mapping[str, Json], policy: EffectPolicy) -> Effect:
    """What the plan's author states, else what the method promises; POST and PATCH promise nothing.

    A PUT or DELETE that was made and made again has one effect, and a server that reads
    `Idempotency-Key` sees that it was one call.
    """
    if policy.stated is not None:
        return policy.stated
    return _EFFECTS.get(str(arguments.get("method", "GET")), Effect.ONCE)


@tool(
    toolbelt="http",
    effect=effect_of,
    parameters={
        "method": {
            "type": "string",
            "enum": [*SAFE, "POST", "PUT", "PATCH", "DELETE"],
            "description": "Default: GET. Only GET, HEAD and OPTIONS may be repeated freely.",
        },
        "url": {
            "type": "string",
            "minLength": 1,
            "description": "http://… or https://…, with an optional port; no user and password.",
        },
        "headers": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Headers to send. They are in the task's log: put no secret there.",
        },
        "body": {
            "description": "Text to send; an object or a list is sent as JSON.",
            "anyOf": [{"type": "string"}, {"type": "object"}, {"type": "array"}],
        },
        "timeout_seconds": {
            "type": "number",
            "minimum": 0.1,
            "maximum": TIMEOUT_SECONDS_MAX,
            "description": "For everything, redirects included.",
        },
        "follow_redirects": {
            "type": "integer",
            "minimum": 0,
            "maximum": REDIRECTS_MAX,
            "description": f"How many to follow; default: {REDIRECTS} for GET, HEAD and OPTIONS, "
            "0 for the others.",
        },
    },
    required=("url",),
)
def http(call: ToolCall) -> ToolResult:
    """Make an HTTP request, to a web page or a REST API, and return status, headers and body.

    Only hosts that the task's policy allows are reached. A body that is no text is described, not
    shown. A status of 400 or more is a failure (exit 22).
    """
    # Both load what a worker's start should not wait for.
    from agent_runtime_tools import _exchange

    method = str(call.arguments.get("method", "GET"))
    may_repeat = effect_of(call.arguments, EffectPolicy()) is not Effect.ONCE
    try:
        request = _exchange.request(call, method)
    except ValueError as error:
        return ToolResult(ok=False, kind="bad_input", output=f"http: {error}")
    seconds = float(call.arguments.get("timeout_seconds", call.timeout_seconds))
    redirects = int(call.arguments.get("follow_redirects", REDIRECTS if method in SAFE else 0))
    try:
        answer = _exchange.exchange(request, env=call.env, seconds=seconds, redirects=redirects)
    except _exchange.NotAllowed as error:
        return ToolResult(ok=False, kind="denied", output=f"{method} {request.url}: {error}")
    except _exchange.NotSent as error:
        # The server has seen nothing of it: whatever it is, it can be tried again.
        return ToolResult(ok=False, kind="transient", output=f"{method} {request.url}: {error}")
    except _exchange.NoAnswer as error:
        # Without an answer nobody knows what a request has changed: the effect ledger decides.
        return ToolResult(
            ok=False,
            kind="timeout" if error.is_timeout or not may_repeat else "transient",
            output=f"{method} {request.url}: {error}",
        )
    return _result(answer, may_repeat=may_repeat)


def _result(answer: Answer, *, may_repeat: bool) -> ToolResult:
    head = "\n".join(
        [
            *(f"redirected to {url}" for url in answer.redirects),
            f"HTTP {answer.status} {answer.reason}".rstrip(),
            *(f"{name}: {value}" for name, value in answer.headers),
            *([f"[{answer.note}]"] if answer.note else []),
        ]
    )
    text = answer.text()
    shown = text if text is not None else f"[{answer.described()}: it is no text and is not shown]"
    if answer.is_cut:
        shown += f"\n[cut: {len(answer.body):,} bytes were read, and there are more]"
    ok = answer.status < 400
    head = cap(head, OUTPUT_CHARS_MAX // 2)
    output = f"{head}\n\n{cap(shown, OUTPUT_CHARS_MAX - len(head) - 2)}".rstrip("\n")
    exact = text is not None and len(head) + len(shown) + 2 <= OUTPUT_CHARS_MAX
    passing = answer.status in _PASSING and may_repeat
    return ToolResult(
        ok=ok,
        output=output,
        exit=0 if ok else _HTTP_ERROR,
        kind="" if ok else "transient" if passing else "failed",
        data={
            "status": answer.status,
            "headers": [list(pair) for pair in answer.headers],
            "url": answer.url,
            "redirects": list(answer.redirects),
            "body_bytes": len(answer.body),
        },
        raw=None if exact else f"{head}\n\n".encode() + answer.body,
    )
