"""What both clients say in every request, and what they make of a refusal, whatever carries it.

`blocking_wire` and `waiting_wire` send and receive; the operations are in `blocking` and `waiting`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from agent_runtime import __version__
from agent_runtime.client import places
from agent_runtime.client.patience import PATIENCE_SECONDS, STREAM_SECONDS, is_busy
from agent_runtime.client.places import Place
from agent_runtime.client.problems import error_of, problem_in
from agent_runtime.errors import AgentRuntimeError, Unreachable

CONNECT_SECONDS = 10.0
USER_AGENT = f"agent-runtime/{__version__}"


class Wire:
    """Where the daemon is, and how long it is waited for."""

    def __init__(
        self,
        place: Place | str,
        token: str | None = None,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        stream_seconds: float = STREAM_SECONDS,
    ) -> None:
        """`stream_seconds`: how long a stream looks for a daemon that is gone."""
        if isinstance(place, str):
            places.checked(place)
            place = Place(place, token)
        self.place = place
        self._patience_seconds = patience_seconds
        self._stream_seconds = stream_seconds

    def _headers(self, headers: Mapping[str, str], *, has_body: bool) -> dict[str, str]:
        sent = {"Accept": "application/json", "User-Agent": USER_AGENT, **headers}
        # What is compressed would be held back until there is enough of it.
        sent["Accept-Encoding"] = "identity"
        if has_body:
            sent["Content-Type"] = "application/json"
        if self.place.token is not None:
            sent["Authorization"] = f"Bearer {self.place.token}"
        return sent

    def _has_new_token(self, status: int) -> bool:
        """Was the token changed since it was read? A 401 has done nothing, so all can be asked
        again."""
        if status != 401 or (fresh := places.with_new_token(self.place)) is None:
            return False
        self.place = fresh
        return True

    def _unreachable(self, why: str = "") -> Unreachable:
        return Unreachable(f"the daemon at {self.place.url} does not answer{why and f': {why}'}")


def refusal(status: int, body: bytes, retry_after: str | None) -> AgentRuntimeError:
    """The error to raise when patience ends. Raises it if there is no sense in coming back."""
    problem = problem_in(status, body)
    error = error_of(problem, retry_after)
    if not is_busy(status, problem.type.rpartition("/")[2], retry_after):
        raise error
    return error


def new_key() -> str:
    """An idempotency key that nobody else makes."""
    return os.urandom(16).hex()
