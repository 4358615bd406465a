"""Webhooks in: hooks over HTTP, and the requests of others that make tasks of them."""

from __future__ import annotations

import logging
import secrets
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from agent_runtime.access.callers import NOBODY, TASKS_WRITE
from agent_runtime.api.answers import Answer, Reply, json_answer
from agent_runtime.api.guard import peer_of
from agent_runtime.api.intake import read_task, require_below
from agent_runtime.api.operations import Refused, Request, operation, whole_body
from agent_runtime.api.problems import problem
from agent_runtime.api.views import HookList, HookTaken, HookTried, HookView, NewHookView, moment
from agent_runtime.errors import (
    Fault,
    Forbidden,
    IdempotencyMismatch,
    StoreUnavailable,
    UsageError,
)
from agent_runtime.notices.filling import faults_of
from agent_runtime.notices.hooks import Hooks, Ignored, NotSigned
from agent_runtime.notices.records import Hook
from agent_runtime.notices.retries import OLD_SECRET_SECONDS
from agent_runtime.notices.signing import SECRET_BYTES, key_of, secret_of
from agent_runtime.taskfile import template_faults
from agent_runtime.types import Json

log = logging.getLogger(__name__)

SCOPE = "tools:admin"
BODY_BYTES_MAX = 1 << 20
SECRET_CHARS_MIN = 16

_HEADER = Meta(pattern=r"^[a-z0-9-]{0,64}$")
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Scheme = Literal["hmac", "github", "gitlab", "standard"]
Filters = Annotated[list[Annotated[str, Meta(min_length=1, max_length=2000)]], Meta(max_length=16)]
Description = Annotated[str, Meta(max_length=500)]


class HookWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hook: `task` is a task file with expressions over `payload`, `headers` and `hook`."""

    name: Name
    scheme: Scheme
    task: dict[str, Json]
    filters: Filters = []
    """Expressions; a request makes a task if all of them are true."""
    secret: Annotated[str, Meta(max_length=500)] = ""
    """Empty: one is made."""
    header: Annotated[str, _HEADER] = ""
    """With `hmac`: which one has the signature; in lower case. Empty: x-signature-256."""
    delivery_header: Annotated[str, _HEADER] = ""
    """Which one tells deliveries apart; in lower case. Empty: the scheme's own."""
    description: Description = ""


class HookChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be another; null: as it was."""

    name: Name | None = None
    task: dict[str, Json] | None = None
    filters: Filters | None = None
    enabled: bool | None = None
    description: Description | None = None


class HookTrial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request as it might come; its signature is not looked at."""

    payload: Json
    headers: dict[str, str] = {}


@operation(
    "POST", "/v1/hooks", answers={201: NewHookView}, scope=SCOPE, errors=(409, 503), body=HookWish
)
async def create_hook(request: Request[HookWish, None]) -> Reply:
    """Make an address at which a signed request makes a task.

    Whoever makes one needs `tasks:write`, too. The secret is told here and never again.
    """
    wish = request.body
    _require_writer(request)
    _check(wish.task, wish.filters, wish.scheme, wish.secret)
    _check_repository(wish.task, request)
    made = secret_of(secrets.token_bytes(SECRET_BYTES))
    hook = Hook(
        hook_id=f"hk_{secrets.token_hex(16)}", name=wish.name, scheme=wish.scheme,
        secret=wish.secret or made, task=wish.task,
        made_at_us=request.daemon.runtime.ports.clock.now_us(), made_by=request.caller.by,
        filters=tuple(wish.filters), header=wish.header, delivery_header=wish.delivery_header,
        description=wish.description,
    )  # fmt: skip
    await _hooks(request).store.add_hook(hook)
    location = b"/v1/hooks/" + hook.hook_id.encode()
    headers = ((b"location", location), (b"cache-control", b"no-store"))
    return json_answer(NewHookView(secret=hook.secret, hook=_view(hook)), 201, headers)


@operation("GET", "/v1/hooks", answers={200: HookList}, scope=SCOPE, errors=(503,))
async def list_hooks(request: Request[None, None]) -> Reply:
    """List hooks."""
    return json_answer(HookList([_view(each) for each in await _hooks(request).store.hooks()]))


@operation("GET", "/v1/hooks/{hook_id}", answers={200: HookView}, scope=SCOPE, errors=(404, 503))
async def get_hook(request: Request[None, None]) -> Reply:
    """Look at a hook."""
    return json_answer(_view(await _hooks(request).store.hook(request.path["hook_id"])))


@operation(
    "PATCH", "/v1/hooks/{hook_id}", answers={200: HookView}, scope=SCOPE, errors=(404, 409, 503),
    body=HookChange,
)  # fmt: skip
async def change_hook(request: Request[HookChange, None]) -> Reply:
    """Change a hook, disable it, or enable it again."""
    change = request.body
    _require_writer(request)
    _check(change.task, change.filters or [])
    _check_repository(change.task or {}, request)
    given = {name: value for name, value in msgspec.structs.asdict(change).items()
             if value is not None}  # fmt: skip
    if "filters" in given:
        given["filters"] = tuple(given["filters"])
    hook = await _hooks(request).store.change_hook(
        request.path["hook_id"], lambda each: replace(each, **given)
    )
    return json_answer(_view(hook))


@operation(
    "POST", "/v1/hooks/{hook_id}/rotate", answers={200: NewHookView}, scope=SCOPE,
    errors=(404, 503),
)  # fmt: skip
async def rotate_hook(request: Request[None, None]) -> Reply:
    """Give a hook a new secret. For a day, requests may be signed with the old one, too."""
    _require_writer(request)
    secret = secret_of(secrets.token_bytes(SECRET_BYTES))
    now_us = request.daemon.runtime.ports.clock.now_us()
    until_us = now_us + OLD_SECRET_SECONDS * 1_000_000
    hook = await _hooks(request).store.change_hook(
        request.path["hook_id"],
        lambda each: replace(each, secret=secret, old_secret=each.secret, old_until_us=until_us),
    )
    headers = ((b"cache-control", b"no-store"),)
    return json_answer(NewHookView(secret=hook.secret, hook=_view(hook)), headers=headers)


@operation("DELETE", "/v1/hooks/{hook_id}", answers={204: None}, scope=SCOPE, errors=(404, 503))
async def delete_hook(request: Request[None, None]) -> Reply:
    """Forget a hook; its tasks stay."""
    await _hooks(request).store.delete_hook(request.path["hook_id"])
    return Answer(204)


@operation(
    "POST", "/v1/hooks/{hook_id}/try", answers={200: HookTried}, scope=SCOPE, errors=(404, 503),
    body=HookTrial,
)  # fmt: skip
async def try_hook(request: Request[HookTrial, None]) -> Reply:
    """See what task a request would make; none is made."""
    hooks, trial = _hooks(request), request.body
    hook = await hooks.store.hook(request.path["hook_id"])
    headers = {name.lower(): value for name, value in trial.headers.items()}
    wish = await hooks.wish(hook, headers, msgspec.json.encode(trial.payload))
    if isinstance(wish, Ignored):
        return json_answer(HookTried(task=None, ignored=wish.why))
    read_task(msgspec.json.encode(wish.task), request.daemon, NOBODY)
    return json_answer(HookTried(task=wish.task, ignored=None))


@operation(
    "POST", "/hooks/{hook_id}", answers={200: HookTaken, 202: HookTaken}, errors=(401, 403, 503),
    body=dict[str, Json], streamed=True, signed=True, recorded=True,
)  # fmt: skip
async def receive_hook(request: Request[None, None]) -> Reply:
    """Take a signed request of another program, and make a task of it.

    It is signed as the hook says: HMAC-SHA256, GitHub, GitLab or Standard Webhooks. The same
    delivery makes one task, however often it comes.
    """
    hooks, runtime = _hooks(request), request.daemon.runtime
    headers = _headers(request)
    body = await whole_body(request.scope, request.receive, BODY_BYTES_MAX)
    now_us = runtime.ports.clock.now_us()
    try:
        hook = await hooks.verified(request.path["hook_id"], headers, body, now_us / 1_000_000)
    except NotSigned as refusal:
        log.info("a request was refused: %s", refusal)
        if request.daemon.access is not None:
            peer = peer_of(request.scope)
            request.daemon.access.auditor.refused("hook signature", peer=peer)
        detail = "there is no such hook, or the request is not signed with its secret"
        raise Refused(problem(401, "not-signed", "The signature does not count", detail)) from None
    try:
        with request.daemon.room() as room:
            wish = await hooks.wish(hook, headers, body)
            if isinstance(wish, Ignored):
                return json_answer(HookTaken(status="ignored", reason=wish.why))
            spec = read_task(msgspec.json.encode(wish.task), request.daemon, NOBODY)
            taken = await runtime.take_in(
                spec, submitted_by=f"hook:{hook.name}", idempotency_key=wish.key
            )
            room.taken = int(taken.is_new)
    except IdempotencyMismatch:
        # The hook was changed since it made the task of this delivery.
        return json_answer(HookTaken(status="repeated", reason="the hook was changed since"))
    if not taken.is_new:
        return json_answer(HookTaken(status="repeated", task_id=taken.task_id))
    if request.daemon.access is not None:
        request.daemon.access.auditor.note(
            NOBODY, "task.submit", taken.task_id, detail=f"hook {hook.name}",
            peer=peer_of(request.scope),
        )  # fmt: skip
    return json_answer(HookTaken(status="accepted", task_id=taken.task_id), 202)


OPERATIONS = (
    create_hook, list_hooks, get_hook, change_hook, rotate_hook, delete_hook, try_hook,
    receive_hook,
)  # fmt: skip


def _headers(request: Request[Any, Any]) -> dict[str, str]:
    return {
        name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]
    }


def _hooks(request: Request[Any, Any]) -> Hooks:
    hooks = request.daemon.hooks
    if hooks is None:
        raise StoreUnavailable("this server has no hooks")
    return hooks


def _require_writer(request: Request[Any, Any]) -> None:
    if TASKS_WRITE not in request.caller.scopes:
        raise Forbidden(f"a hook makes tasks: whoever makes or changes one needs {TASKS_WRITE!r}")


def _check(
    task: dict[str, Json] | None, filters: list[str], scheme: str = "", secret: str = ""
) -> None:
    faults = [
        Fault(tuple(place.strip("/").split("/")), told)
        for place, told in faults_of(task or {}, filters)
    ]
    if task is not None:
        faults += [Fault(("task", *each.path), each.text) for each in template_faults(task)]
    if secret and len(secret) < SECRET_CHARS_MIN:
        faults.append(Fault(("secret",), f"must have at least {SECRET_CHARS_MIN} characters"))
    if secret and scheme == "standard":
        try:
            is_short = len(key_of(secret)) < 24
        except ValueError:
            is_short = True
        if is_short:
            faults.append(Fault(("secret",), "must be whsec_ and at least 24 bytes in base64"))
    if faults:
        raise UsageError("; ".join(f"{each.pointer}: {each.text}" for each in faults),
                         faults=faults)  # fmt: skip


def _check_repository(task: dict[str, Json], request: Request[Any, Any]) -> None:
    """`Forbidden` if no request could ever make it: its sender would be the only one to hear."""
    workspace = task.get("workspace")
    repo = workspace.get("repo") if isinstance(workspace, dict) else None
    if isinstance(repo, str) and "{{" not in repo:
        require_below(repo, request.daemon.roots_of(NOBODY))


def _view(hook: Hook) -> HookView:
    return HookView(
        id=hook.hook_id, name=hook.name, path=f"/hooks/{hook.hook_id}", scheme=hook.scheme,
        task=hook.task, filters=list(hook.filters), header=hook.header,
        delivery_header=hook.delivery_header, description=hook.description, enabled=hook.enabled,
        created_at=moment(hook.made_at_us), created_by=hook.made_by,
    )  # fmt: skip
