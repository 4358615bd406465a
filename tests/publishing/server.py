"""A git host on this machine: `git http-backend` behind Basic auth, and both forges' APIs.

It counts, keeps every pull request, and calls `at` before and after each request is handled: there
a test kills whoever asked.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "ghp_canary-4f2a9c01d7e8b3a6"
_BACKEND = ["git", "http-backend"]


@dataclass
class GitHost:
    """The server; `requests` are pull requests as their forge shows them."""

    root: Path
    token: str = TOKEN
    requests: list[dict[str, Any]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    at: Callable[[str], None] = lambda point: None
    refuse: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    """`METHOD path-beginning` -> the answer that is given once instead."""
    app_tokens: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        host = self

        class Handler(_Handler):
            server_of = host

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, project: str = "acme/app") -> str:
        return f"http://{self.netloc}/{project}.git"

    def credentials(self, forge: str = "github", **more: str) -> dict[str, dict[str, str]]:
        """The setting of an installation that may use this host."""
        api = f"http://{self.netloc}/api/{'v3' if forge == 'github' else 'v4'}"
        return {self.netloc: {"token": "env:HOST_TOKEN", "forge": forge, "api": api, **more}}

    def repository(self, project: str = "acme/app") -> Path:
        return self.root / f"{project}.git"

    def create(self, source: Path, project: str = "acme/app") -> Path:
        """A bare repository with what `source` has."""
        path = self.repository(project)
        path.parent.mkdir(parents=True, exist_ok=True)
        _git("clone", "--quiet", "--bare", str(source), str(path))
        _git("-C", str(path), "config", "http.receivepack", "true")
        return path

    def branches(self, project: str = "acme/app") -> dict[str, str]:
        out = _git("-C", str(self.repository(project)), "for-each-ref",
                   "--format=%(refname:lstrip=2) %(objectname)", "refs/heads")  # fmt: skip
        return dict(line.split(" ") for line in out.splitlines())

    def show(self, revision: str, project: str = "acme/app") -> str:
        return _git("-C", str(self.repository(project)), "show", revision)


def processes_with(secret: str) -> list[str]:
    """Arguments and variables, of everything that runs on this machine, that hold it."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        for name in ("environ", "cmdline"):
            with suppress(OSError):
                if secret.encode() in (place / name).read_bytes():
                    found.append(f"{place}/{name}")
    return found


def files_with(place: Path, secret: str) -> list[Path]:
    """Files below a directory that hold it."""
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if secret.encode() in path.read_bytes()]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, capture_output=True)
    return done.stdout.decode()


class _Handler(BaseHTTPRequestHandler):
    server_of: GitHost
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PATCH = do_PUT = do_GET

    def _serve(self) -> None:
        host = self.server_of
        told = f"{self.command} {self.path}"
        body = self._body()
        host.at(f"before {told}")
        host.log.append(told)
        answer = self._refused(told) or self._handled(body)
        host.at(f"after {told}")
        # Whoever asked may be gone.
        with suppress(OSError):
            status, headers, data = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def _refused(self, told: str) -> tuple[int, dict[str, str], bytes] | None:
        refuse = self.server_of.refuse
        for beginning in list(refuse):
            if told.startswith(beginning):
                return refuse.pop(beginning)
        return None

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "") == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _handled(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        path = urlsplit(self.path).path
        if path.startswith("/api/v3/app/installations/"):
            return self._app_token()
        if path.startswith("/api/v3/repos/"):
            return self._github(path.removeprefix("/api/v3/repos/"), body)
        if path.startswith("/api/v4/projects/"):
            return self._gitlab(path.removeprefix("/api/v4/projects/"), body)
        return self._backend(path, body)

    # -- git --

    def _backend(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        given = self.headers.get("authorization", "")
        password = ""
        if given.startswith("Basic "):
            password = base64.b64decode(given[6:]).decode().partition(":")[2]
        if password != self.server_of.token:
            return 401, {"www-authenticate": 'Basic realm="git"'}, b"who are you?"
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server_of.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "HOME": str(self.server_of.root),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": unquote(path),
            "QUERY_STRING": urlsplit(self.path).query,
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
            "REMOTE_USER": "somebody",
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(_BACKEND, input=body, env=env, capture_output=True, check=False)
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        status = int(headers.pop("Status", "200").split(" ")[0])
        return status, headers, data

    # -- forges --

    def _app_token(self) -> tuple[int, dict[str, str], bytes]:
        if not self.headers.get("authorization", "").startswith("Bearer ey"):
            return _json(401, {"message": "A JSON web token could not be decoded"})
        self.server_of.app_tokens += 1
        return _json(201, {"token": self.server_of.token, "expires_at": "2099-01-01T00:00:00Z"})

    def _github(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.headers.get("authorization") != f"Bearer {self.server_of.token}":
            return _json(401, {"message": "Bad credentials"})
        owner, name, _, *rest = path.split("/")
        ours = self._of(f"{owner}/{name}")
        if self.command == "GET":
            asked = parse_qs(urlsplit(self.path).query)
            head = asked["head"][0].removeprefix(f"{owner}:")
            return _json(200, [_as_github(each) for each in ours if each["head"] == head])
        told = json.loads(body)
        if self.command == "PATCH":
            found = next(each for each in ours if each["number"] == int(rest[0]))
            found["text"] = told["body"]
            return _json(200, _as_github(found))
        refused = self._new(f"{owner}/{name}", told["head"], told["base"], told["title"],
                            told["body"], told["draft"])  # fmt: skip
        if refused:
            error = {"resource": "PullRequest", "code": "custom", "message": refused}
            return _json(422, {"message": "Validation Failed", "errors": [error]})
        return _json(201, _as_github(self.server_of.requests[-1]))

    def _gitlab(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.headers.get("private-token") != self.server_of.token:
            return _json(401, {"message": "401 Unauthorized"})
        project, _, *rest = path.split("/")
        project = unquote(project)
        ours = self._of(project)
        if self.command == "GET":
            branch = parse_qs(urlsplit(self.path).query)["source_branch"][0]
            return _json(200, [_as_gitlab(each) for each in ours if each["head"] == branch])
        told = json.loads(body)
        if self.command == "PUT":
            found = next(each for each in ours if each["number"] == int(rest[0]))
            found["text"] = told["description"]
            return _json(200, _as_gitlab(found))
        title = told["title"]
        refused = self._new(project, told["source_branch"], told["target_branch"], title,
                            told["description"], title.startswith("Draft: "))  # fmt: skip
        if refused:
            return _json(409, {"message": ["Another open merge request already exists"]})
        return _json(201, _as_gitlab(self.server_of.requests[-1]))

    def _of(self, project: str) -> list[dict[str, Any]]:
        return [each for each in self.server_of.requests if each["project"] == project]

    def _new(self, project: str, head: str, base: str, title: str, text: str, draft: bool) -> str:
        """Why it is refused, as both forges do."""
        branches = self.server_of.branches(project)
        if head not in branches or base not in branches:
            return "head or base is invalid"
        same = [r for r in self._of(project) if (r["head"], r["base"]) == (head, base)]
        if any(each["state"] == "open" for each in same):
            return f"A pull request already exists for {project}:{head}."
        self.server_of.requests.append(
            {"project": project, "number": len(self.server_of.requests) + 1, "head": head,
             "base": base, "title": title, "text": text, "draft": draft, "state": "open"}
        )  # fmt: skip
        return ""


def _as_github(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "number": told["number"], "state": told["state"], "title": told["title"],
        "body": told["text"], "draft": told["draft"], "head": {"ref": told["head"]},
        "base": {"ref": told["base"]},
        "html_url": f"https://git.test/{told['project']}/pull/{told['number']}",
    }  # fmt: skip


def _as_gitlab(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "iid": told["number"], "title": told["title"], "description": told["text"],
        "state": {"open": "opened"}.get(told["state"], told["state"]),
        "source_branch": told["head"], "target_branch": told["base"],
        "web_url": f"https://git.test/{told['project']}/-/merge_requests/{told['number']}",
    }  # fmt: skip


def _json(status: int, value: object) -> tuple[int, dict[str, str], bytes]:
    return status, {"content-type": "application/json"}, json.dumps(value).encode()
