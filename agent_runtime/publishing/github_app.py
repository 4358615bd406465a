"""Tokens of a GitHub App: a signed word of the app is changed into a token of its installation.

https://docs.github.com/apps: the word lives ten minutes at most, the token an hour. A token is kept
in memory until it has five minutes left.
"""

from __future__ import annotations

import time
from threading import Lock
from typing import Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from agent_runtime.errors import WorkspaceError
from agent_runtime.publishing.forges import exchange

SKEW_SECONDS: Final = 60
"""GitHub's clock may be behind ours."""
WORD_SECONDS: Final = 540
TOKEN_SECONDS: Final = 3300
"""Of the hour that a token lives."""


class AppTokens:
    """One token an installation; safe to be asked from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[tuple[str, str, str], tuple[float, str]] = {}

    def token(self, *, app: str, installation: str, private_key: str, api: str, ca: str) -> str:
        """A token that lives for some minutes at least. Blocks.

        Raises:
            WorkspaceError: GitHub gives none; no key in it.
        """
        with self._lock:
            until, token = self._kept.get((api, app, installation), (0.0, ""))
            if time.monotonic() < until:
                return token
            word = _signed(app, private_key)
            url = f"{api}/app/installations/{installation}/access_tokens"
            # No answer at all is `PublishFailed`, and may pass.
            headers = {"authorization": f"Bearer {word}"}
            answer = exchange("POST", url, headers=headers, ca=ca, secret=word)
            told = answer.json() if answer.status == 201 else None
            token = told.get("token", "") if isinstance(told, dict) else ""
            if not token or not isinstance(token, str):
                raise WorkspaceError(
                    f"GitHub gives no token for installation {installation!r} of app {app!r}: "
                    f"{answer.said()}"
                )
            self._kept[api, app, installation] = (time.monotonic() + TOKEN_SECONDS, token)
            return str(token)


def _signed(app: str, private_key: str) -> str:
    # Wall time, because GitHub compares it with its own.
    now = time.time_ns() // 10**9
    claims = {"iat": now - SKEW_SECONDS, "exp": now + WORD_SECONDS, "iss": app}
    try:
        key = RSAKey.import_key(private_key)
        return jwt.encode({"alg": "RS256"}, claims, key)
    except (JoseError, ValueError, TypeError):
        raise WorkspaceError(
            f"the private key of GitHub App {app!r} is no RSA key in PEM form"
        ) from None
