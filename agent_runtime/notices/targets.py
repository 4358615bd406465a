"""The setting `notify`: who is told when a task waits or ends, and by what means. Pure.

notify:
  team: {slack: "env:SLACK_URL", on: [waiting, ended], labels: {team: parsers}}
  me: {email: me@example.org, smtp: "smtp://mail.example.org:587", sender: agent@example.org,
       user: agent, password: "file:/run/secrets/smtp", on: [failed]}
  shop: {webhook: https://example.org/in, secret: "env:SHOP_SECRET"}
  bell: {command: [/usr/local/bin/bell]}
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from string import Template
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from agent_runtime.notices.messages import OCCASIONS
from agent_runtime.schema import nearest
from agent_runtime.secret_sources import fault_of

PREFIX: Final = "notify:"
NAMES_MAX: Final = 50
FIELDS: Final = (
    *("task_id", "short", "type", "occasion", "status", "reason", "goal", "link", "timestamp"),
)
"""What `subject` and `text` can name with a $."""
SUBJECT: Final = "[agent-runtime] $occasion: $goal"
TEXT: Final = "$goal\n$status: $reason\nagent-runtime show $short\n$link"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_EVENT: Final = re.compile(r"[A-Z][A-Za-z]{2,63}")
_MAIL: Final = re.compile(r"[^\s@<>,;\x00-\x1f]+@[^\s@<>,;\x00-\x1f]+")
_MEANS: Final = ("webhook", "slack", "email", "command")
_OF: Final[Mapping[str, str]] = {
    "secret": "webhook", "smtp": "email", "sender": "email", "user": "email", "password": "email",
    "subject": "email", "tls": "email",
}  # fmt: skip
"""Which means a field belongs to."""

Kind = Literal["webhook", "slack", "email", "command"]
Tls = Literal["starttls", "implicit", "none"]


class NotifyTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to tell somebody. `on` are events and occasions; `labels`: tasks that have them."""

    on: list[str] = msgspec.field(default_factory=lambda: ["waiting", "ended"])
    labels: dict[str, str] = {}
    per_minute: Annotated[float, Meta(gt=0, le=6000)] = 10.0
    """Messages; what is more waits."""
    webhook: str = ""
    """A URL, or where it is: env:NAME, file:/path, command:words. So is `slack`."""
    slack: str = ""
    email: str | list[str] = ""
    command: list[str] = []
    """Words of a program, run without a shell; it reads the message from its standard input."""
    secret: str = ""
    """Where the `whsec_` secret of `webhook` is."""
    smtp: str = ""
    """smtp://host:587, or smtps://host:465."""
    sender: str = ""
    user: str = ""
    password: str = ""
    """Where it is."""
    tls: Literal["required", "none"] = "required"
    subject: str = SUBJECT
    text: str = TEXT

    @property
    def kind(self) -> Kind:
        """By what means; a valid one has one."""
        return next(name for name in _MEANS if getattr(self, name))

    @property
    def addresses(self) -> list[str]:
        """Of `email`."""
        return [self.email] if isinstance(self.email, str) else self.email


class BadTarget(ValueError):
    """The setting is wrong; says where, and repeats no value that may be a secret."""


def parse_targets(value: Any) -> dict[str, NotifyTarget]:
    """The setting, checked. Raises `BadTarget` at the first that is wrong."""
    if not isinstance(value, dict):
        raise BadTarget("must be a mapping: NAME: {webhook|slack|email|command: …}")
    if len(value) > NAMES_MAX:
        raise BadTarget(f"has {len(value)} targets; at most {NAMES_MAX}")
    return {name: _target(name, fields) for name, fields in value.items()}


def unknown_names(names: Collection[str]) -> str:
    """What is wrong with the events and occasions that somebody asks for; empty: nothing.

    Every name in the form of an event's is taken: a later version has more of them.
    """
    for name in names:
        if name in OCCASIONS or _EVENT.fullmatch(name):
            continue
        guess = nearest(name, OCCASIONS)
        hint = f"; did you mean {guess!r}?" if guess else ""
        return f"{name[:80]!r} is neither an event's type nor one of {', '.join(OCCASIONS)}{hint}"
    return ""


def _target(name: object, fields: object) -> NotifyTarget:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadTarget(f"{name!r} cannot be a target's name: a-z, 0-9, _ and -")
    if not isinstance(fields, dict):
        raise BadTarget(f"{name}: must be a mapping such as {{slack: env:SLACK_URL}}")
    for field in fields:
        if field not in NotifyTarget.__struct_fields__:
            guess = nearest(str(field), NotifyTarget.__struct_fields__)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise BadTarget(f"{name}: Object contains unknown field `{str(field)[:80]}`{hint}")
    if isinstance(fields.get("command"), str):
        raise BadTarget(f"{name}: command must be a list of words, such as [/opt/bell, --urgent]")
    try:
        target = msgspec.convert(fields, NotifyTarget)
    except msgspec.ValidationError as error:
        raise BadTarget(f"{name}: {error}") from None
    if fault := _fault(target):
        raise BadTarget(f"{name}: {fault}")
    return target


def _fault(target: NotifyTarget) -> str:
    means = [each for each in _MEANS if getattr(target, each)]
    if len(means) != 1:
        return f"needs one of {', '.join(_MEANS)}, got {' and '.join(means) or 'none'}"
    empty = NotifyTarget()
    for field, kind in _OF.items():
        given = getattr(target, field, None)
        if kind != means[0] and given is not None and given != getattr(empty, field, given):
            return f"{field} belongs to {kind}, and this is {means[0]}"
    if not target.on:
        return "on: names no event, so nothing would ever be told"
    if wrong := unknown_names(target.on):
        return f"on: {wrong}"
    for field in ("webhook", "slack"):
        url = getattr(target, field)
        if url and not url.startswith(("http://", "https://")) and fault_of(url):
            return f"{field} must be a URL, or where it is: {_sources(url)}"
    for field in ("secret", "password"):
        source = getattr(target, field)
        if source and fault_of(source):
            return f"{field} {fault_of(source)}"
    if means[0] == "webhook" and not target.secret:
        return "webhook needs secret: where its whsec_… secret is (env:NAME, file:/path)"
    return _mail_fault(target) if means[0] == "email" else _text_fault(target)


def _mail_fault(target: NotifyTarget) -> str:
    if not all(_MAIL.fullmatch(address) for address in target.addresses):
        return "email must be an address, or a list of them: somebody@example.org"
    if not _MAIL.fullmatch(target.sender):
        return "sender must be an address: who the mail is from, such as agents@example.org"
    try:
        url = urlsplit(target.smtp)
        port = url.port
    except ValueError:
        return "smtp must be smtp://host:port or smtps://host:port"
    if url.scheme not in ("smtp", "smtps") or not url.hostname or port == 0 or url.path.strip("/"):
        return "smtp must be smtp://host:port or smtps://host:port"
    if url.username is not None:
        return "smtp has a user in it: name it in user, and where its password is in password"
    if bool(target.user) != bool(target.password):
        return "user and password belong together"
    if target.user and target.tls == "none" and url.scheme == "smtp":
        return "tls: none would send the password as it is; leave user and password out"
    return _text_fault(target)


def _text_fault(target: NotifyTarget) -> str:
    for field in ("subject", "text"):
        template = Template(getattr(target, field))
        known = f"{field} can name ${', $'.join(FIELDS)} ($$ is a dollar)"
        if not template.is_valid():
            return known
        for name in sorted(set(template.get_identifiers()) - set(FIELDS)):
            guess = nearest(name, FIELDS)
            hint = f"; did you mean '${guess}'?" if guess else ""
            return f"{known}, and no ${name}{hint}"
    return ""


def _sources(source: str) -> str:
    return fault_of(source).removeprefix("must be ")


def filled(template: str, message: Mapping[str, Any]) -> str:
    """A text with a message's fields in it. Values are taken as they are, never read again."""
    values = {name: str(message.get(name) or "") for name in FIELDS}
    values["short"] = values["task_id"][-8:]
    values["occasion"] = values["occasion"] or values["type"]
    return Template(template).safe_substitute(values).strip()
