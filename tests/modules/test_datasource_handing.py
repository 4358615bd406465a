"""The operator's sources: copied to the sandboxes, revalidated, and never with their tokens."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import apsw
import pytest

from agent_runtime.contributions import of_module
from agent_runtime.errors import ConfigError, PluginError
from agent_runtime.loop.hands import with_shared
from agent_runtime.modules.datasource import (
    DatasourceModule,
    answers,
    fetching,
    handing,
    sources,
    tools,
)
from agent_runtime.modules.datasource.handing import Handing, declared_in
from agent_runtime.modules.sharing import Refreshing
from agent_runtime.toolbox import PluginToolbox
from agent_runtime.types import SHARED_VARIABLE, Json, ToolCall, ToolInfo, ToolResult
from tests.sandboxes.support import make_sandbox, make_spec

Use = Callable[..., ToolResult]
NOW = 1_800_000_000.0


@pytest.fixture
def anyio_backend() -> str:
    """Threads copy: virtual time does not see them."""
    return "asyncio"


@dataclass
class Web:
    """A real server on 127.0.0.1; `answer` decides, `asked` tells every request's headers."""

    url: str = ""
    body: bytes = b"[]"
    etag: str = '"one"'
    status: int = 200
    location: str = ""
    echo: bool = False
    declared_bytes: int | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.asked.append({**headers, "path": handler.path})
        status = self.statuses.pop(0) if self.statuses else self.status
        body = self.body
        if self.echo:
            body = json.dumps(headers).encode()
        if status == 200 and self.etag and headers.get("if-none-match") == self.etag:
            status, body = 304, b""
        handler.send_response(status)
        if self.etag:
            handler.send_header("ETag", self.etag)
        if self.location and handler.path == "/":
            handler.send_header("Location", self.location)
        if status != 304:
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(self.declared_bytes or len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    place = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place.reply(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield place
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Clock:
    """What the module takes for the time."""

    at: float = NOW


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sources, "now", lambda: clock.at)
    return clock


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the operator keeps data; `shared` beside it is what the sandboxes see."""
    monkeypatch.setenv(SHARED_VARIABLE, str(tmp_path / "shared"))
    monkeypatch.setattr(sources, "_documents", sources._Documents())
    path = tmp_path / "operator"
    path.mkdir()
    (tmp_path / "repository").mkdir()
    yield path
    answers._tables.clear()


def declare(place: Path, **declared: Json) -> Handing:
    file = place / "datasources.yaml"
    file.write_text(json.dumps({"datasources": declared}), encoding="utf-8")
    return Handing(declared_in({"file": str(file)}), str(place.parent / "shared" / "datasource"))


def ask(place: Path, query: str = "", *, source: str = "it") -> ToolResult:
    call = ToolCall(
        call_id="c",
        tool="query_datasource",
        arguments={"source": source, "query": query},
        workspace=str(place.parent / "repository"),
    )
    return anyio.run(tools()[1].execute, call)


# ---- files -------------------------------------------------------------------------------


def test_a_file_of_the_operator_is_handed_over_with_its_provenance(
    place: Path, clock: Clock
) -> None:
    (place / "p.csv").write_text("sku,price\nA,1\n", encoding="utf-8")
    os.utime(place / "p.csv", (NOW - 7200, NOW - 7200))
    declare(place, it={"file": "p.csv", "max_age": "1h", "description": "Prices"}).refresh()
    result = ask(place, "SELECT price FROM data")
    assert result.data["rows"] == [[1]]
    told = result.data["provenance"]
    assert (told["declared_by"], told["location"]) == ("operator", str(place / "p.csv"))
    assert (told["age_seconds"], told["stale"]) == (7200.0, True)
    assert "declared by the operator" in result.output and "STALE: max age 60 min" in result.output


def test_a_copy_follows_its_file_and_says_when_it_cannot(place: Path, clock: Clock) -> None:
    file = place / "p.csv"
    file.write_text("a\n1\n", encoding="utf-8")
    handing = declare(place, it={"file": "p.csv"})
    handing.refresh()
    file.write_text("a\n2\n", encoding="utf-8")
    handing.refresh()
    assert ask(place, "SELECT a FROM data").data["rows"] == [[2]]
    file.rename(place / "away")
    handing.refresh()
    result = ask(place, "SELECT a FROM data")
    assert result.data["rows"] == [[2]], "what was copied is better than nothing"
    assert "MAY BE BEHIND: No such file or directory" in result.output
    assert handing.faults() == {"it": "No such file or directory"}
    (place / "away").rename(file)
    handing.refresh()
    assert "BEHIND" not in ask(place).output and handing.faults() == {}


def test_old_copies_are_removed(place: Path, clock: Clock) -> None:
    file = place / "p.csv"
    handing = declare(place, it={"file": "p.csv"})
    for number in range(5):
        file.write_text(f"a\n{number}\n", encoding="utf-8")
        handing.refresh()
    shared = place.parent / "shared" / "datasource"
    assert len(list(shared.glob("content-*"))) == 2, "the newest, and the one that may be read now"
    for path in (shared, *shared.iterdir()):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def test_nothing_is_written_while_nothing_changes(place: Path, clock: Clock) -> None:
    (place / "p.csv").write_text("a\n1\n", encoding="utf-8")
    handed = declare(place, it={"file": "p.csv"})
    handed.refresh()
    manifest = place.parent / "shared" / "datasource" / "sources.json"
    inode = manifest.stat().st_ino
    clock.at += handing.LOOKED_SECONDS - 1
    handed.refresh()
    assert manifest.stat().st_ino == inode
    clock.at += 2
    handed.refresh()
    assert manifest.stat().st_ino != inode, "that it was looked at is news after a while"


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_live_database_is_copied_as_it_is_at_one_moment(
    place: Path, clock: Clock, mode: str
) -> None:
    writer = apsw.Connection(str(place / "live.db"))
    writer.pragma("journal_mode", mode)
    writer.execute("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    handing = declare(place, it={"file": "live.db"})
    handing.refresh()
    assert ask(place, "SELECT a FROM t").data["rows"] == [[1]]
    writer.execute("INSERT INTO t VALUES (2)")
    handing.refresh()
    assert ask(place, "SELECT sum(a) FROM t").data["rows"] == [[3]]
    assert ask(place, "INSERT INTO t VALUES (9)").kind == "bad_input"
    # A question never waits for, nor holds up, who writes.
    writer.execute("BEGIN EXCLUSIVE; INSERT INTO t VALUES (3)")
    assert ask(place, "SELECT sum(a) FROM t").data["rows"] == [[3]]
    writer.execute("COMMIT")
    writer.close()
    handing.refresh()
    assert ask(place, "SELECT sum(a) FROM t").data["rows"] == [[6]]


def test_a_locked_database_is_told_as_the_copy_from_before(
    place: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requirement 213: two tries, then what is known from before, with a note."""
    monkeypatch.setattr(handing, "BUSY_MS", 1)
    writer = apsw.Connection(str(place / "live.db"))
    writer.execute("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    handed = declare(place, it={"file": "live.db"})
    handed.refresh()
    writer.execute("BEGIN EXCLUSIVE; INSERT INTO t VALUES (2)")
    os.utime(place / "live.db", (NOW, NOW))
    handed.refresh()
    result = ask(place, "SELECT a FROM t")
    assert result.data["rows"] == [[1]] and "MAY BE BEHIND: database is locked" in result.output
    writer.execute("COMMIT")
    handed.refresh()
    assert len(ask(place, "SELECT a FROM t").data["rows"]) == 2


def test_what_cannot_be_copied_is_told_and_the_rest_goes_on(place: Path, clock: Clock) -> None:
    os.mkfifo(place / "pipe.csv")
    with open(place / "sparse.csv", "wb") as file:
        file.truncate(1 << 30)
    with open(place / "sparse.db", "wb") as file:
        file.truncate(1 << 30)
    (place / "no.db").write_bytes(b"no database" * 1000)
    (place / "loop.csv").symlink_to("loop.csv")
    (place / "good.csv").write_text("a\n1\n", encoding="utf-8")
    declare(
        place,
        pipe={"file": "pipe.csv"}, sparse={"file": "sparse.csv"}, db={"file": "sparse.db"},
        no={"file": "no.db"}, loop={"file": "loop.csv"}, gone={"file": "gone.csv"},
        folder={"file": "."}, good={"file": "good.csv"},
    ).refresh()  # fmt: skip
    said = {
        "pipe": "a named pipe", "sparse": "it has 1,073,741,824 bytes", "db": "1,073,741,824 bytes",
        "no": "file is not a database", "loop": "", "gone": "No such file", "folder": "a directory",
    }  # fmt: skip
    for name, text in said.items():
        result = ask(place, source=name)
        assert (result.ok, result.kind) == (False, "failed"), name
        assert "there is no copy of it: " in result.output and text in result.output, result.output
    assert ask(place, source="good").ok


def test_the_operators_name_hides_the_repositorys(place: Path, clock: Clock) -> None:
    """A repository must not speak for the operator."""
    (place / "p.csv").write_text("a\n1\n", encoding="utf-8")
    declare(place, it={"file": "p.csv"}).refresh()
    repository = place.parent / "repository"
    (repository / "p.csv").write_text("a\n666\n", encoding="utf-8")
    (repository / ".agent-runtime.yaml").write_text(
        "datasources: {it: {file: p.csv}, own: {file: p.csv}}", encoding="utf-8"
    )
    assert ask(place, "SELECT a FROM data").data["rows"] == [[1]]
    call = ToolCall(call_id="c", tool="list", arguments={}, workspace=str(repository))
    listed = anyio.run(tools()[0].execute, call).output
    assert "- own (csv, declared by the repository, p.csv)" in listed
    assert "- it (csv, declared by the operator, " in listed
    assert "the operator declares a source of this name, which is used" in listed


# ---- HTTP documents ----------------------------------------------------------------------


def test_a_document_is_fetched_once_and_revalidated(place: Path, web: Web, clock: Clock) -> None:
    web.body = b'[{"a": 1}]'
    handing = declare(place, it={"url": web.url, "max_age": "10m"})
    handing.refresh()
    handing.refresh()
    assert len(web.asked) == 1, "it is not due"
    result = ask(place, "SELECT a FROM data")
    told = result.data["provenance"]
    assert result.data["rows"] == [[1]] and told["etag"] == '"one"' and told["stale"] is False
    clock.at += 400
    handing.refresh()
    assert web.asked[1]["if-none-match"] == '"one"'
    told = ask(place).data["provenance"]
    assert told["fetched_at"] == sources.stated(NOW)
    assert told["checked_at"] == sources.stated(NOW + 400)
    clock.at += 400
    web.body, web.etag = b'[{"a": 2}]', '"two"'
    handing.refresh()
    assert ask(place, "SELECT a FROM data").data["rows"] == [[2]]


def test_a_restarted_daemon_revalidates_what_it_had(place: Path, web: Web, clock: Clock) -> None:
    declare(place, it={"url": web.url}).refresh()
    declare(place, it={"url": web.url}).refresh()
    assert [each.get("if-none-match") for each in web.asked] == [None, '"one"']
    other = web.url + "other"
    declare(place, it={"url": other}).refresh()
    assert "if-none-match" not in web.asked[2], "another address is another document"


def test_a_server_that_fails_is_asked_twice_and_then_the_copy_is_used(
    place: Path, web: Web, clock: Clock
) -> None:
    """Requirement 213."""
    handing = declare(place, it={"url": web.url, "max_age": "1m"})
    web.statuses = [503]
    handing.refresh()
    assert len(web.asked) == 2 and ask(place).ok
    clock.at += 3600
    web.status = 500
    handing.refresh()
    assert len(web.asked) == 4
    result = ask(place)
    assert result.ok and result.data["provenance"]["stale"] is True
    assert "STALE" in result.output
    assert "MAY BE BEHIND: the server answered 500" in result.output
    handing.refresh()
    assert len(web.asked) == 4, "not before a while"
    web.status = 404
    clock.at += 3600
    handing.refresh()
    assert len(web.asked) == 5, "what is not there is not there at a second try"


def test_a_token_goes_to_its_server_and_nowhere_else(
    place: Path, web: Web, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No secret is in what a sandbox sees, not even if the server sends it back."""
    monkeypatch.setenv("DATA_TOKEN", "canary-token-12345")
    web.echo = True
    handing = declare(place, it={"url": web.url, "bearer": "env:DATA_TOKEN"})
    handing.refresh()
    assert web.asked[0]["authorization"] == "Bearer canary-token-12345"
    assert ask(place).ok
    for path in (place.parent / "shared").rglob("*"):
        assert path.is_dir() or b"canary-token" not in path.read_bytes()
    monkeypatch.delenv("DATA_TOKEN")
    clock.at += 3600
    handing.refresh()
    assert "the variable 'DATA_TOKEN' is not set" in ask(place).output


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://localhost:1/x", "it redirects to http://localhost:1/x, another place"),
        ("file:///etc/passwd", "another place"),
        ("ftp://127.0.0.1/x", "another place"),
    ],
)
def test_a_redirect_to_another_place_is_not_followed(
    place: Path, web: Web, clock: Clock, location: str, said: str
) -> None:
    web.status, web.location, web.etag = 302, location, ""
    declare(place, it={"url": web.url}).refresh()
    assert said in ask(place).output and len(web.asked) == 1


def test_a_redirect_on_the_same_host_is_followed(place: Path, web: Web, clock: Clock) -> None:
    web.statuses, web.location = [302], "/there"
    declare(place, it={"url": web.url}).refresh()
    assert ask(place).ok and [each["path"] for each in web.asked] == ["/", "/there"]
    web.status = 302
    web.location = "/"
    declare(place, other={"url": web.url}).refresh()
    assert "the server answered 302" in ask(place, source="other").output


def test_a_document_that_is_too_large_or_cut_is_none(
    place: Path, web: Web, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "BYTES_MAX", 1000)
    web.body = b"x" * 2000
    declare(place, large={"url": web.url}).refresh()
    assert "it has more than 1,000 bytes" in ask(place, source="large").output
    web.body, web.declared_bytes = b"[", 500
    declare(place, cut={"url": web.url}).refresh()
    assert "the connection broke 499 bytes before the end" in ask(place, source="cut").output


def test_a_server_that_is_not_there_is_told(place: Path, web: Web, clock: Clock) -> None:
    declare(place, it={"url": "http://127.0.0.1:1/"}).refresh()
    assert "127.0.0.1 cannot be reached: [Errno 111] Connection refused" in ask(place).output


def test_a_repositorys_document_is_fetched_by_the_worker(
    place: Path, web: Web, clock: Clock
) -> None:
    """And goes the way that the task's policy leaves it."""
    web.body = b'{"a": 1}'
    (place.parent / "repository" / ".agent-runtime.yaml").write_text(
        json.dumps({"datasources": {"it": {"url": web.url, "max_age": 60}}}), encoding="utf-8"
    )
    assert ask(place, "/a").output.endswith("\n1") and ask(place, "/a").ok
    assert len(web.asked) == 1, "it is younger than its age"
    clock.at += 61
    assert ask(place, "/a").data["provenance"]["age_seconds"] == 0
    assert web.asked[1]["if-none-match"] == '"one"'
    clock.at += 61
    web.status = 500
    result = ask(place, "/a")
    assert result.ok and "STALE" in result.output
    assert "could not be revalidated: the server answered 500" in result.output


def test_a_database_that_is_fetched_is_one_wherever_it_was_declared(
    place: Path, web: Web, clock: Clock
) -> None:
    made = apsw.Connection(str(place / "x.db"))
    made.pragma("journal_mode", "wal")
    made.execute("CREATE TABLE t (a); INSERT INTO t VALUES (5)")
    made.close()
    web.body = (place / "x.db").read_bytes()
    declare(place, it={"url": web.url + "x.db"}).refresh()
    (place.parent / "repository" / ".agent-runtime.yaml").write_text(
        json.dumps({"datasources": {"own": {"url": web.url, "kind": "sqlite"}}}), encoding="utf-8"
    )
    for source in ("it", "own"):
        assert ask(place, "SELECT a FROM t", source=source).data["rows"] == [[5]], source


# ---- the module --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "malformed YAML"),
        ("- 1", "must hold one mapping, 'datasources'"),
        ("sources: {}", "must hold one mapping, 'datasources'"),
        ("datasources: {x: {file: a, kind: b}}", "datasources.x: kind: must be one of"),
        ("datasources: {x: {url: 'http://x', bearer: secret}}", "bearer must be env:NAME"),
        ("datasources: {x: {file: a, bearer: 'env:A'}}", "bearer: is for a 'url'"),
        ("datasources: {x: {file: a}, x: {file: b}}", "the key stands twice"),
    ],
)
def test_a_wrong_file_of_the_operator_is_refused_with_all_that_is_wrong(
    place: Path, text: str, said: str
) -> None:
    file = place / "d.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        declared_in({"file": str(file)})
    assert said in str(caught.value) and str(file) in str(caught.value)


def test_the_modules_settings_are_checked(place: Path) -> None:
    assert declared_in({}) == [] == declared_in({"file": ""})
    for settings, said in (
        ({"files": "/x"}, "no setting 'files'; it has 'file'"),
        ({"file": "d.yaml"}, "'d.yaml' must be an absolute path"),
        ({"file": str(place / "gone.yaml")}, "No such file"),
    ):
        with pytest.raises(ConfigError, match=said):
            declared_in(settings)


@pytest.mark.anyio
async def test_the_module_hands_over_while_it_lives(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Refreshing.start, "__kwdefaults__", {"seconds": 0.05})
    (place / "p.csv").write_text("a\n1\n", encoding="utf-8")
    file = place / "d.yaml"
    file.write_text("datasources: {it: {file: p.csv}, gone: {file: gone.csv}}", encoding="utf-8")
    shared = place.parent / "shared"
    shared.mkdir()
    toolbox = PluginToolbox(
        [of_module(DatasourceModule())],
        shared_dir=str(shared),
        settings={"datasource": {"file": str(file)}},
    )
    async with toolbox:
        await toolbox.activate("datasource")
        (health,) = await toolbox.modules.health()
        assert (health.state, health.detail) == (
            "unwell", "source 'gone': No such file or directory",
        )  # fmt: skip
        (place / "gone.csv").write_text("a\n2\n", encoding="utf-8")
        with anyio.fail_after(30):
            while (await toolbox.modules.health())[0].state != "well":
                await anyio.sleep(0.05)
    (place / "d.yaml").write_text("- wrong", encoding="utf-8")
    broken = PluginToolbox(
        [of_module(DatasourceModule())],
        shared_dir=str(shared),
        settings={"datasource": {"file": str(file)}},
    )
    async with broken:
        with pytest.raises(PluginError, match="must hold one mapping, 'datasources'"):
            await broken.activate("datasource")


def test_the_tools_work_in_a_real_worker(place: Path, web: Web, tmp_path: Path) -> None:
    """The operator's copies are seen; a repository's address is out of reach without a network."""
    sandbox = make_sandbox("bubblewrap", tmp_path / "state")
    apsw.Connection(str(place / "o.db")).execute("CREATE TABLE t (a); INSERT INTO t VALUES (42)")
    (place / "p.csv").write_text("a\n1\n", encoding="utf-8")
    declare(place, db={"file": "o.db"}, csv={"file": "p.csv"}).refresh()
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "own.jsonl").write_text('{"a": 7}\n', encoding="utf-8")
    (workspace / ".agent-runtime.yaml").write_text(
        json.dumps({"datasources": {"own": {"file": "own.jsonl"}, "web": {"url": web.url}}}),
        encoding="utf-8",
    )
    spec = with_shared(make_spec(tmp_path), str(tmp_path / "shared"))
    contribution = of_module(DatasourceModule())

    async def run() -> list[ToolResult]:
        session = await sandbox.open(spec)
        try:
            found = []
            for name, arguments in (
                ("list_datasources", {}),
                ("query_datasource", {"source": "db", "query": "SELECT a FROM t"}),
                ("query_datasource", {"source": "csv", "query": "SELECT a FROM data"}),
                ("query_datasource", {"source": "own", "query": "SELECT a FROM data"}),
                ("query_datasource", {"source": "web"}),
            ):
                info = ToolInfo(
                    name=name, description="", parameters={}, toolbelt="datasource",
                    where="worker", source=contribution.sources[name],
                )  # fmt: skip
                call = ToolCall(call_id="c", tool=name, arguments=arguments, workspace=spec.mount)
                found.append(await session.call(info, call, deadline_seconds=60))
            return found
        finally:
            await session.close()

    listed, db, table, own, unreachable = anyio.run(run)
    assert all(f"- {name} (" in listed.output for name in ("db", "csv", "own", "web"))
    assert [each.data["rows"] for each in (db, table, own)] == [[[42]], [[1]], [[7]]]
    assert not unreachable.ok and "cannot be reached" in unreachable.output
    assert web.asked == []
