"""One HTTP document, fetched or revalidated; with what Python brings, bounded in bytes and time.

In the daemon it goes as the daemon goes, in the worker through the proxy that the task's policy
gives it; both find their proxy in the environment. A redirect is followed on the same host only:
who declared the address vouches for that host and for no other.
"""

from __future__ import annotations

import http.client
import io
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import IO, Final
from urllib.parse import urljoin, urlsplit

BYTES_MAX: Final = 32 << 20
SECONDS_MAX: Final = 10.0
_PIECE_BYTES: Final = 1 << 16
_REFUSED: Final = "x-agent-runtime-egress"
"""A header of the egress proxy's own answers."""


class NotFetched(Exception):
    """There is no document; says why. `is_final`: asking again at once changes nothing."""

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What the server answered; `body` is None if what is known is still right (304)."""

    body: bytes | None
    etag: str = ""
    last_modified: str = ""
    content_type: str = ""


def fetch(
    url: str, *, etag: str = "", last_modified: str = "", bearer: str = "",
    seconds: float = SECONDS_MAX,
) -> Fetched:  # fmt: skip
    """Ask once; with `etag` or `last_modified`, whether it has changed. Blocks.

    Raises:
        NotFetched: no answer, no document, or one that is too large.
    """
    deadline = time.monotonic() + seconds
    headers = {"User-Agent": "agent-runtime", "Accept-Encoding": "identity"}
    if etag:
        headers["If-None-Match"] = etag
    if last_modified:
        headers["If-Modified-Since"] = last_modified
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    request = urllib.request.Request(url, headers=headers)
    try:
        with _opener().open(request, timeout=seconds) as answer:
            body = _body(answer, deadline, seconds)
            got = answer.headers
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 304 and (etag or last_modified):
                told = error.headers
                return Fetched(
                    body=None,
                    etag=told.get("ETag") or etag,
                    last_modified=told.get("Last-Modified") or last_modified,
                )
            raise NotFetched(_status(error), is_final=400 <= error.code < 500) from None
    except TimeoutError:
        raise NotFetched(f"no whole answer within {seconds:g} s", is_final=True) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotFetched(_why(error, url)) from None
    return Fetched(
        body=body,
        etag=got.get("ETag", "")[:500],
        last_modified=got.get("Last-Modified", "")[:100],
        content_type=got.get("Content-Type", "")[:200],
    )


class _SameHost(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
        headers: http.client.HTTPMessage,
    ) -> IO[bytes] | None:  # fmt: skip
        target = urljoin(req.full_url, headers.get("Location", ""))
        old, new = urlsplit(req.full_url), urlsplit(target)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            fp.close()
            raise NotFetched(
                f"it redirects to {target[:300]}, another place; declare that address instead",
                is_final=True,
            )
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    # Not `build_opener`: no file:, ftp: or data: is ever opened.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameHost(),
    ):
        opener.add_handler(handler)
    return opener


def _body(answer: http.client.HTTPResponse, deadline: float, seconds: float) -> bytes:
    body = io.BytesIO()
    # What arrives, not what would fill a buffer: a server that drips must not outlive the deadline.
    while piece := answer.read1(_PIECE_BYTES):
        body.write(piece)
        if body.tell() > BYTES_MAX:
            raise NotFetched(f"it has more than {BYTES_MAX:,} bytes, which is all", is_final=True)
        if time.monotonic() > deadline:
            raise NotFetched(f"no whole answer within {seconds:g} s", is_final=True)
    if answer.length:
        raise NotFetched(f"the connection broke {answer.length:,} bytes before the end")
    return body.getvalue()


def _status(error: urllib.error.HTTPError) -> str:
    headers: Mapping[str, str] | Message = error.headers or {}
    if headers.get(_REFUSED):
        try:
            return error.read(2000).decode("utf-8", "replace").strip()
        except (OSError, http.client.HTTPException):
            pass
    return f"the server answered {error.code} {error.reason}"


def _why(error: Exception, url: str) -> str:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    host = urlsplit(url).hostname
    return f"{host} cannot be reached: {str(reason) or type(reason).__name__}"
