"""Requests and streams of `blocking.Client`, on the standard library's HTTP, which starts fast.

One connection is kept between requests, and each stream has one of its own. Proxies of the
environment are not used.
"""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from agent_runtime.client import places
from agent_runtime.client import views as v
from agent_runtime.client.asks import Ask, Reply
from agent_runtime.client.following import Broken, Following, Output
from agent_runtime.client.patience import ANSWER_SECONDS, SILENCE_SECONDS, Failure, Patience
from agent_runtime.client.wire import CONNECT_SECONDS, Wire, refusal
from agent_runtime.errors import AgentRuntimeError, UsageError

T = TypeVar("T")


class BlockingWire(Wire):
    """Not for several threads at once."""

    _connection: http.client.HTTPConnection | None = None
    hasty = False
    """Is somebody who only looks told at once that nobody listens at an address that has not yet
    answered? What is handed off is tried for a while: a daemon may just be starting."""
    _met = False
    """Has anybody answered there?"""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def send(self, ask: Ask[T]) -> T:
        """The answer to one request, after as many tries as it takes and may have."""
        return ask.read(self._reply(ask))

    def _reply(self, ask: Ask[Any], *, refuse: bool = True) -> Reply:
        patience = Patience(self._patience_seconds, ask.again)
        while True:
            retry_after: str | None = None
            trouble: AgentRuntimeError
            try:
                reply = self._once(ask)
            except _Failed as failed:
                failure, trouble = failed.failure, self._unreachable(_words(failed.error))
                if self._finds_nobody(failure, ask.method):
                    raise trouble from failed.error
            else:
                self._met = True
                if reply.status < 400 or not refuse:
                    return reply
                if self._has_new_token(reply.status):
                    continue
                retry_after = reply.headers.get("retry-after")
                trouble = refusal(reply.status, reply.body, retry_after)
                failure = Failure.BUSY
            seconds = patience.wait(failure, time.monotonic(), retry_after)
            if seconds is None:
                raise trouble
            time.sleep(seconds)
            self.place = places.again(self.place)

    def _once(self, ask: Ask[Any]) -> Reply:
        # A kept connection may have been closed by the other side, and then it is not known what
        # became of a request: one that may not be sent twice gets a connection of its own.
        if not ask.again:
            self.close()
        connection = self._connection or self._open(ANSWER_SECONDS)
        self._connection = None
        if connection.sock is not None:
            connection.sock.settimeout(ANSWER_SECONDS + ask.wait_seconds)
        else:
            self._dial(connection, ANSWER_SECONDS + ask.wait_seconds)
        try:
            path, sent, headers = self._head(ask.path, ask.body, ask.headers)
            if ask.file is None:
                connection.request(ask.method, path, sent, headers)
            else:
                _send_file(connection, ask.method, path, ask.file, headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _Failed(Failure.LOST, error) from error
        if response.will_close:
            connection.close()
        else:
            self._connection = connection
        given = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, given, body)

    def _follow(self, following: Following) -> Iterator[v.Event | Output | v.TaskView]:
        for news in self._news(following, None):
            yield from news or ()

    def _news(
        self, following: Following, deadline: float | None
    ) -> Iterator[list[v.Event | Output | v.TaskView] | None]:
        """What comes, in bursts; None when the deadline has passed."""
        patience = Patience(self._stream_seconds, again=True)
        while True:
            failure, retry_after = Failure.LOST, None
            trouble: AgentRuntimeError = self._unreachable()
            connection = self._open(SILENCE_SECONDS)
            try:
                self._dial(connection, _room(deadline, CONNECT_SECONDS))
                path, headers = following.ask()
                connection.request("GET", *self._head(path, None, headers))
                response = connection.getresponse()
                self._met = True
                if response.status == 204:
                    return
                if response.status != 200:
                    if self._has_new_token(response.status):
                        continue
                    retry_after = response.getheader("retry-after")
                    trouble = refusal(response.status, response.read(), retry_after)
                    failure = Failure.BUSY
                else:
                    while True:
                        if connection.sock is not None:
                            connection.sock.settimeout(_room(deadline, SILENCE_SECONDS))
                        data = response.read1(1 << 16)
                        if not data:
                            break
                        patience.rest()
                        if news := following.feed(data):
                            yield news
            except _Failed as failed:
                failure, trouble = failed.failure, self._unreachable(_words(failed.error))
                if self._finds_nobody(failure, "GET"):
                    raise trouble from failed.error
            except (OSError, http.client.HTTPException, Broken) as error:
                trouble = self._unreachable(_words(error))
            finally:
                connection.close()
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                yield None
                return
            # A stream that brought something, and was closed, is asked for again at once: it has
            # ended with its task (204), or the daemon is about to be started anew.
            seconds = 0.0 if following.moved else patience.wait(failure, now, retry_after)
            if seconds is None:
                raise trouble
            time.sleep(_room(deadline, seconds))
            self.place = places.again(self.place)

    def _finds_nobody(self, failure: Failure, method: str) -> bool:
        return self.hasty and not self._met and failure is Failure.REFUSED and method == "GET"

    def _open(self, seconds: float) -> http.client.HTTPConnection:
        parts = self.place.parts
        assert parts.hostname is not None
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=seconds)
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=seconds)

    def _dial(self, connection: http.client.HTTPConnection, seconds: float) -> None:
        connection.timeout = min(CONNECT_SECONDS, seconds)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise _Failed(Failure.REFUSED, error) from error
        assert connection.sock is not None
        connection.sock.settimeout(seconds)

    def _head(
        self, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[str, bytes | None, dict[str, str]]:
        return self.place.parts.path + path, body, self._headers(headers, has_body=body is not None)


class _Failed(Exception):
    def __init__(self, failure: Failure, error: Exception) -> None:
        super().__init__()
        self.failure = failure
        self.error = error


def _send_file(
    connection: http.client.HTTPConnection, method: str, path: str, name: str,
    headers: Mapping[str, str],
) -> None:  # fmt: skip
    try:
        file = open(name, "rb")
    except OSError as error:
        raise UsageError(f"{name!r} cannot be read: {error.strerror}") from None
    with file:
        length = str(os.fstat(file.fileno()).st_size)
        # A daemon that refuses it may answer, and close, before it has read all of it.
        with suppress(ConnectionError):
            connection.request(method, path, file, {**headers, "Content-Length": length})


def _room(deadline: float | None, seconds: float) -> float:
    """`seconds`, or what is left of them; never zero, which would mean: do not block."""
    return seconds if deadline is None else max(0.001, min(seconds, deadline - time.monotonic()))


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
