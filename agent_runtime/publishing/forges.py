"""Pull requests on GitHub and merge requests on GitLab, through their REST APIs.

Each is looked for before it is made, by its head branch: a request that was sent by somebody who
died is found. A forge holds one open request for a branch and a base and refuses a second, so what
was still on its way when we looked does no harm either; then we look again.

GitHub: https://docs.github.com/rest/pulls/pulls (version 2022-11-28).
GitLab: https://docs.gitlab.com/api/merge_requests/.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

import anyio
import anyio.from_thread
import httpx2

from agent_runtime import __version__
from agent_runtime.errors import PublishFailed
from agent_runtime.ports.publisher import OpenedRequest, PreparedBranch
from agent_runtime.publishing.addresses import GitAddress

ANSWER_BYTES_MAX: Final = 8 << 20
SAID_CHARS_MAX: Final = 600
CONNECT_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 30.0
ANSWER_SECONDS_MAX: Final = 120.0
"""Of a whole answer, however it drips."""
GITHUB_VERSION: Final = "2022-11-28"
LOOKS: Final = 3
"""For a request that the forge says is there."""
_URL: Final = re.compile(r"https?://[!-~]{1,2000}")
_DIGITS: Final = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body; None if it is no JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def said(self) -> str:
        """The forge's own words about what is wrong."""
        told = self.json()
        parts: list[str] = []
        if isinstance(told, dict):
            names = ("message", "error", "error_description")
            values = [value for name in names if (value := told.get(name))]
            errors = told.get("errors")
            values += [_text_of(error) for error in errors] if isinstance(errors, list) else []
            parts = [v if isinstance(v, str) else json.dumps(v) for v in values]
        text = "; ".join(parts) or self.body[:200].decode("utf-8", "replace")
        # JSON can write halves of characters, which the log cannot.
        text = text[:SAID_CHARS_MAX].encode("utf-8", "replace").decode()
        return f"{self.status}: {text}"


def exchange(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] = {},
    body: object = None,
    ca: str = "",
    secret: str = "",
    timeout_seconds: float = SILENCE_SECONDS,
) -> Answer:
    """One request and its whole answer. Never redirected, because a token would go along.

    Blocks: called in worker threads of anyio, given up when their caller is cancelled. `secret` is
    what the headers hold: where the answer repeats it, it is `***`.

    Raises:
        PublishFailed: there is no answer; it may pass.
    """
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)

    async def ask(client: httpx2.AsyncClient) -> Answer:
        data = bytearray()
        given = {
            "user-agent": f"agent-runtime/{__version__}",
            "accept": "application/json",
            "accept-encoding": "identity",
            **headers,
        }
        with anyio.fail_after(ANSWER_SECONDS_MAX):
            async with client, client.stream(method, url, headers=given, json=body) as response:
                async for piece in response.aiter_bytes():
                    data += piece
                    if len(data) > ANSWER_BYTES_MAX:
                        raise PublishFailed(f"{_place(url)} answers without an end", kind="failed")
                shown = bytes(data).replace(secret.encode(), b"***") if secret else bytes(data)
                return Answer(response.status_code, dict(response.headers), shown)

    try:
        # Made here: certificates are read for so long that the loop would stand still.
        client = httpx2.AsyncClient(
            verify=ssl.create_default_context(cafile=ca) if ca else True,
            timeout=httpx2.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            mounts={f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")},
        )
        return anyio.from_thread.run(ask, client)
    except CancelledError:
        anyio.from_thread.check_cancelled()
        raise
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        why = str(error) or type(error).__name__
        raise PublishFailed(f"{_place(url)} gives no answer: {why}", kind="transient") from None


def _place(url: str) -> str:
    return url.partition("?")[0]


@dataclass(slots=True)
class Forge:
    """One project on a forge. Every method blocks, and raises `PublishFailed`."""

    api: str
    address: GitAddress
    token: str = field(repr=False)
    ca: str = ""

    def open_request(
        self, prepared: PreparedBranch, *, title: str, body: str, draft: bool, marker: str
    ) -> OpenedRequest:
        """The one request for the branch: the one that is there, else a new one."""
        text = f"{body}\n\n{marker}\n"
        for _ in range(LOOKS):
            if found := self._look(prepared, marker):
                if marker not in str(found.get(self.text_key) or ""):
                    self._update(found, text)
                return self._opened(found, found_there=True)
            answer = self._create(prepared, title=title, text=text, draft=draft)
            if answer.status in (200, 201):
                # One that makes no sense may still have made it: the next try looks.
                told = answer.json()
                return self._opened(told if isinstance(told, dict) else {}, found_there=False)
            if not self._is_there(answer):
                raise refused(answer)
            # Somebody's request was faster than our look.
        raise PublishFailed(
            f"{self.api} says that there is a request for {prepared.branch!r}, and shows none",
            kind="transient",
        )

    text_key: str = field(default="body", init=False)

    def _look(self, prepared: PreparedBranch, marker: str) -> dict[str, Any] | None:
        raise NotImplementedError

    def _create(
        self, prepared: PreparedBranch, *, title: str, text: str, draft: bool
    ) -> Answer:  # fmt: skip
        raise NotImplementedError

    def _update(self, found: dict[str, Any], text: str) -> None:
        raise NotImplementedError

    def _opened(self, told: dict[str, Any], *, found_there: bool) -> OpenedRequest:
        raise NotImplementedError

    def _is_there(self, answer: Answer) -> bool:
        raise NotImplementedError

    def _ask(self, method: str, path: str, body: object = None) -> Answer:
        return exchange(
            method, f"{self.api}{path}", headers=self._headers(), body=body, ca=self.ca,
            secret=self.token,
        )  # fmt: skip

    def _headers(self) -> dict[str, str]:
        raise NotImplementedError

    def _listed(self, path: str) -> list[dict[str, Any]]:
        answer = self._ask("GET", path)
        if answer.status != 200:
            raise refused(answer)
        told = answer.json()
        if not isinstance(told, list):
            raise _senseless(f"{answer.said()} is no list")
        return [each for each in told if isinstance(each, dict)]

    def _request(
        self, told: dict[str, Any], *, number: str, url: str, found: bool
    ) -> OpenedRequest:
        where = told.get(url)
        shown = where if isinstance(where, str) and _URL.fullmatch(where) else ""
        return OpenedRequest(url=shown, number=_number(told, number), found=found)


class GitHub(Forge):
    """https://docs.github.com/rest/pulls/pulls"""

    def _headers(self) -> dict[str, str]:
        return {
            "authorization": f"Bearer {self.token}",
            "accept": "application/vnd.github+json",
            "x-github-api-version": GITHUB_VERSION,
        }

    @property
    def _pulls(self) -> str:
        return f"/repos/{quote(self.address.project)}/pulls"

    def _look(self, prepared: PreparedBranch, marker: str) -> dict[str, Any] | None:
        owner = self.address.project.partition("/")[0]
        asked = {"head": f"{owner}:{prepared.branch}", "state": "all", "per_page": "100"}
        found = [
            pull
            for pull in self._listed(f"{self._pulls}?{urlencode(asked)}")
            # An unknown filter would be ignored, and every request of the project listed.
            if _ref(pull.get("head")) == prepared.branch and _ref(pull.get("base")) == prepared.base
        ]
        return _wanted(found, marker, self.text_key, open_state="open")

    def _create(self, prepared: PreparedBranch, *, title: str, text: str, draft: bool) -> Answer:
        return self._ask(
            "POST",
            self._pulls,
            {
                "title": title, "head": prepared.branch, "base": prepared.base, "body": text,
                "draft": draft,
            },
        )  # fmt: skip

    def _update(self, found: dict[str, Any], text: str) -> None:
        answer = self._ask("PATCH", f"{self._pulls}/{_number(found, 'number')}", {"body": text})
        if answer.status != 200:
            raise refused(answer)

    def _opened(self, told: dict[str, Any], *, found_there: bool) -> OpenedRequest:
        return self._request(told, number="number", url="html_url", found=found_there)

    def _is_there(self, answer: Answer) -> bool:
        return answer.status == 422 and "already exists" in answer.said()


class GitLab(Forge):
    """https://docs.gitlab.com/api/merge_requests/"""

    def __post_init__(self) -> None:
        self.text_key = "description"

    def _headers(self) -> dict[str, str]:
        return {"private-token": self.token}

    @property
    def _requests(self) -> str:
        return f"/projects/{quote(self.address.project, safe='')}/merge_requests"

    def _look(self, prepared: PreparedBranch, marker: str) -> dict[str, Any] | None:
        asked = {"source_branch": prepared.branch, "state": "all", "per_page": "100"}
        found = [
            request
            for request in self._listed(f"{self._requests}?{urlencode(asked)}")
            if request.get("source_branch") == prepared.branch
            and request.get("target_branch") == prepared.base
        ]
        return _wanted(found, marker, self.text_key, open_state="opened")

    def _create(self, prepared: PreparedBranch, *, title: str, text: str, draft: bool) -> Answer:
        return self._ask(
            "POST",
            self._requests,
            {
                "source_branch": prepared.branch,
                "target_branch": prepared.base,
                # A merge request is a draft by its title.
                "title": f"Draft: {title}" if draft else title,
                "description": text,
            },
        )

    def _update(self, found: dict[str, Any], text: str) -> None:
        path = f"{self._requests}/{_number(found, 'iid')}"
        answer = self._ask("PUT", path, {"description": text})
        if answer.status != 200:
            raise refused(answer)

    def _opened(self, told: dict[str, Any], *, found_there: bool) -> OpenedRequest:
        return self._request(told, number="iid", url="web_url", found=found_there)

    def _is_there(self, answer: Answer) -> bool:
        return answer.status == 409


FORGES: Final[Mapping[str, type[Forge]]] = {"github": GitHub, "gitlab": GitLab}


def _text_of(error: object) -> object:
    return (error.get("message") if isinstance(error, dict) else "") or error


def _ref(told: object) -> object:
    return told.get("ref") if isinstance(told, dict) else None


def _number(told: dict[str, Any], name: str) -> int:
    number = told.get(name)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 1 << 53:
        raise _senseless(f"its request has the {name} {str(number)[:50]!r}")
    return number


def _senseless(what: str) -> PublishFailed:
    """As a proxy in between answers, or a server that is just being changed: it may pass."""
    return PublishFailed(f"the forge's answer makes no sense: {what}", kind="transient")


def _wanted(
    found: list[dict[str, Any]], marker: str, text_key: str, *, open_state: str
) -> dict[str, Any] | None:
    """The open one; else one of this very publication, which somebody has closed or merged."""
    for request in found:
        if request.get("state") == open_state:
            return request
    return next((each for each in found if marker in str(each.get(text_key) or "")), None)


def refused(answer: Answer) -> PublishFailed:
    """What an answer that is no good one means for the next try."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    after = _seconds(headers.get("retry-after", ""))
    spent = answer.status == 403 and headers.get("x-ratelimit-remaining") == "0"
    reset = headers.get("x-ratelimit-reset", "")
    if spent and after is None and _DIGITS.fullmatch(reset):
        after = max(1.0, int(reset) - time.time_ns() / 1e9)
    said = f"the forge says {answer.said()}"
    if answer.status == 429 or answer.status >= 500 or spent or (
        answer.status == 403 and after is not None
    ):  # fmt: skip
        return PublishFailed(said, kind="transient", retry_after_seconds=after)
    if answer.status in (401, 403):
        return PublishFailed(said, kind="denied")
    if answer.status == 404:
        hint = "; does the token of git_credentials reach this project?"
        return PublishFailed(said + hint, kind="not_found")
    if 300 <= answer.status < 400:
        return PublishFailed(f"{said}; it leads elsewhere: name the final address", kind="failed")
    return PublishFailed(said, kind="bad_input")


def _seconds(text: str) -> float | None:
    """Of a `Retry-After`: a number, or a date."""
    if _DIGITS.fullmatch(text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time_ns() / 1e9)
    except (ValueError, TypeError, OverflowError):
        return None
