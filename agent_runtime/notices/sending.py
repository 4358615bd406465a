"""One try of one delivery, for each kind of target. What goes wrong is told without secrets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from anyio import to_thread

from agent_runtime.errors import ConfigError
from agent_runtime.notices import commands, mailing
from agent_runtime.notices.posting import NotSent, Poster
from agent_runtime.notices.records import Delivery, Webhook
from agent_runtime.notices.signing import signature
from agent_runtime.notices.targets import NotifyTarget, filled
from agent_runtime.redaction import Redactor
from agent_runtime.secret_sources import read_secret

THROTTLED: Final = frozenset({429, 502, 503, 504})
"""Answers of somebody who has too much to do: everything for this target waits."""
GONE: Final = 410


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a try went. `error` empty: it was taken."""

    error: str = ""
    status: int = 0
    retry_after_seconds: float | None = None

    @property
    def is_gone(self) -> bool:
        """Nobody wants to hear any more there."""
        return self.status == GONE

    @property
    def is_throttled(self) -> bool:
        return self.status in THROTTLED


async def to_webhook(poster: Poster, webhook: Webhook, delivery: Delivery, now_us: int) -> Outcome:
    """Post a delivery, signed."""
    secrets = [webhook.secret]
    if webhook.old_secret and webhook.old_until_us > now_us:
        secrets.append(webhook.old_secret)
    return await _post_signed(poster, webhook.url, secrets, delivery, now_us)


class Notifier:
    """Tells one target of the settings."""

    def __init__(
        self, name: str, target: NotifyTarget, *, poster: Poster, environ: Mapping[str, str],
        now_us: Callable[[], int],
    ) -> None:  # fmt: skip
        self._name = name
        self._target = target
        self._poster = poster
        self._environ = environ
        self._now_us = now_us

    async def __call__(self, delivery: Delivery) -> Outcome:
        """One try. Secrets are read for it, and kept no longer."""
        target, secrets = self._target, dict[str, str]()

        async def value(field: str) -> str:
            source = getattr(target, field)
            if source.startswith(("http://", "https://")):
                secrets[field] = source
                return str(source)
            name = f"notify.{self._name}.{field}"
            secrets[field] = await to_thread.run_sync(read_secret, name, source, self._environ)
            return secrets[field]

        try:
            outcome = await self._send(delivery, value)
        except (ConfigError, NotSent, mailing.NotMailed, commands.NotRun, ValueError) as error:
            outcome = Outcome(str(error))
        return Outcome(
            Redactor(secrets).text(outcome.error), outcome.status, outcome.retry_after_seconds
        )

    async def _send(self, delivery: Delivery, value: Callable[[str], Any]) -> Outcome:
        target = self._target
        message = msgspec.json.decode(delivery.body)
        match target.kind:
            case "webhook":
                url, secret = await value("webhook"), await value("secret")
                return await _post_signed(self._poster, url, [secret], delivery, self._now_us())
            case "slack":
                text = _slack(filled(target.text, message))
                body = msgspec.json.encode({"text": text})
                headers = {"content-type": "application/json"}
                return await _posted(self._poster, await value("slack"), headers, body)
            case "email":
                mail = mailing.Mail(
                    smtp=target.smtp, sender=target.sender, addresses=target.addresses,
                    subject=filled(target.subject, message), text=filled(target.text, message),
                    message_id=delivery.message_id, user=target.user,
                    password=await value("password") if target.password else "",
                    is_plain=target.tls == "none",
                )  # fmt: skip
                # A server that does not answer has its own end; nobody waits for it at a stop.
                await to_thread.run_sync(mailing.send, mail, abandon_on_cancel=True)
                return Outcome()
            case "command":
                await commands.run(target.command, delivery.body, self._environ)
                return Outcome()


async def _post_signed(
    poster: Poster, url: str, secrets: list[str], delivery: Delivery, now_us: int
) -> Outcome:
    timestamp = now_us // 1_000_000
    headers = {
        "content-type": "application/json",
        "webhook-id": delivery.message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secrets, delivery.message_id, timestamp, delivery.body),
    }
    return await _posted(poster, url, headers, delivery.body)


async def _posted(poster: Poster, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
    try:
        answered = await poster.post(url, headers, body)
    except NotSent as error:
        return Outcome(str(error))
    if 200 <= answered.status < 300:
        return Outcome("", answered.status)
    why = f"answered {answered.status}"
    if 300 <= answered.status < 400:
        why += "; redirections are not followed: name the address that it leads to"
    return Outcome(why, answered.status, answered.retry_after_seconds)


def _slack(text: str) -> str:
    """As Slack's incoming webhooks want it: what could be a mention or a link is text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
