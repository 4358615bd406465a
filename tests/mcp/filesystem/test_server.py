"""The server as clients meet it: a process on stdin and stdout, its resources, and its roots."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from agent_runtime_mcp.definitions import McpFault
from agent_runtime_mcp.filesystem import FilesystemServer, documents
from tests.api.daemons import serving
from tests.mcp.filesystem.conftest import Nobody
from tests.mcp.lines import META, Lines, speaking

TYPESCRIPT: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "read_file": (["path"], ["tail", "head"]),
    "read_text_file": (["path"], ["tail", "head"]),
    "read_media_file": (["path"], []),
    "read_multiple_files": (["paths"], []),
    "write_file": (["path", "content"], []),
    "edit_file": (["path", "edits"], ["dryRun"]),
    "create_directory": (["path"], []),
    "list_directory": (["path"], []),
    "list_directory_with_sizes": (["path"], ["sortBy"]),
    "directory_tree": (["path"], ["excludePatterns"]),
    "move_file": (["source", "destination"], []),
    "search_files": (["path", "pattern"], ["excludePatterns"]),
    "get_file_info": (["path"], []),
    "list_allowed_directories": ([], []),
}
"""Tools of @modelcontextprotocol/server-filesystem 2026.8.31: required and other arguments."""


@pytest.fixture
def anyio_backend() -> str:
    """Threads know no virtual clock."""
    return "asyncio"


def serve(*options: str) -> list[str]:
    return [sys.executable, "-m", "agent_runtime", "mcp", "filesystem", *options]


def roots_of(lines: Lines, roots: list[str] | None) -> None:
    """The handshake of a client that has these roots, or knows of none."""
    capabilities: dict[str, Any] = {} if roots is None else {"roots": {}}
    client = {"name": "lines", "version": "0"}
    lines.ask(
        "initialize", protocolVersion="2025-11-25", capabilities=capabilities, clientInfo=client
    )
    lines.send({"jsonrpc": "2.0", "method": "notifications/initialized"})


def answered(lines: Lines, number: int, roots: list[str], name: str, **arguments: Any) -> Any:
    """A call in which the client is asked for its roots once."""
    params = {"name": name, "arguments": arguments}
    lines.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
    while True:
        message = lines.heard.get(timeout=30)
        assert message is not None, "the server has gone"
        if message.get("method") == "roots/list":
            given = {"roots": [{"uri": uri} for uri in roots]}
            lines.send({"jsonrpc": "2.0", "id": message["id"], "result": given})
        elif message.get("id") == number:
            return message["result"]


def test_clients_of_the_typescript_server_find_all_they_know(root: Path) -> None:
    """Same names and arguments; what is more is optional, and the output has `content`."""
    tools = {tool.name: tool for tool in FilesystemServer([str(root)]).fixed_tools()}
    for name, (required, others) in TYPESCRIPT.items():
        schema = tools[name].input_schema
        assert schema.get("required", []) == required
        assert {*required, *others} <= schema["properties"].keys()
        output = tools[name].output_schema
        assert output is not None and output["required"] == ["content"]
    assert set(tools) - set(TYPESCRIPT) == {"grep", "copy_file", "delete_file"}
    assert len(json.dumps([tool.input_schema for tool in tools.values()])) < 6_000


def test_a_process_serves_files_below_its_root(root: Path, outside: Path) -> None:
    (root / "f").write_text("text")
    with speaking(serve("--root", str(root))) as lines:
        lines.initialize()
        assert lines.call("read_text_file", path=f"{root}/f")["structuredContent"] == {
            "content": "text"
        }
        for number in range(40):
            one = {"oldText": "text", "newText": f"{number}text"}
            arguments = {"path": f"{root}/f", "edits": [one]}
            lines.send(
                {
                    "jsonrpc": "2.0",
                    "id": 1000 + number,
                    "method": "tools/call",
                    "params": {"name": "edit_file", "arguments": arguments},
                }
            )
        assert not any(lines.reply(1000 + number)["result"]["isError"] for number in range(40))
        assert (root / "f").read_text() == "".join(map(str, range(40))) + "text"
        lost = lines.call("read_text_file", path=f"{outside}/secret")
        assert lost["isError"] and "SECRET" not in json.dumps(lost)


@pytest.mark.long
@pytest.mark.parametrize("way", [[], ["--no-short-way"]], ids=["short", "long"])
def test_both_ways_lead_to_an_answer(root: Path, outside: Path, way: list[str]) -> None:
    """On the stateless wire; what is too long for the short way goes the long one."""
    (root / "f").write_text("text")
    with speaking(serve("--root", str(root), *way)) as lines:
        read = lines.call("read_text_file", modern=True, path=f"{root}/f")
        assert read["structuredContent"] == {"content": "text"}
        big = "x" * 5_000_000
        lines.call("write_file", modern=True, path=f"{root}/big", content=big)
        assert (root / "big").read_text() == big
        lost = lines.call("read_text_file", modern=True, path=f"{outside}/secret")
        assert lost["isError"] and "SECRET" not in json.dumps(lost)
        uri = f"file://{quote(str(root))}/f"
        document = lines.ask("resources/read", modern=True, uri=uri)["result"]
        assert document["contents"] == [{"uri": uri, "mimeType": "text/plain", "text": "text"}]


class Naming(Nobody):
    """A client with these roots."""

    def __init__(self, *uris: str) -> None:
        self.uris = uris

    async def ask(self, questions: Mapping[str, Any], *, state: str = "") -> Mapping[str, Any]:
        assert questions == {"roots": ("roots/list", {})}
        return {"roots": {"roots": [{"uri": uri} for uri in self.uris]}}


@pytest.mark.anyio
async def test_roots_that_a_client_names_are_only_those_of_who_was_started_for_it(
    root: Path, outside: Path
) -> None:
    """A daemon's clients must not choose; nor do they where the server has roots of its own."""
    naming = Naming(f"file://{root}", "https://example.org/", f"file://{root}/none")

    async def told(server: FilesystemServer) -> str:
        tool = await server.tool("list_allowed_directories", naming)
        assert tool is not None
        said = await tool.run({}, naming)
        return "\n".join(block["text"] for block in said.content)

    alone = await told(FilesystemServer(alone=True))
    assert alone.startswith(f"Allowed directories:\n{root}\n")
    assert "'https://example.org/' is no file" in alone and "none' is no directory" in alone
    assert "workspace_roots" in await told(FilesystemServer())
    assert str(root) not in await told(FilesystemServer([str(outside)], alone=True))
    naming.uris = ("file:///dev/null",)
    assert "'file:///dev/null' is no directory" in await told(FilesystemServer(alone=True))
    tool = await FilesystemServer(alone=True, default_root=str(root)).tool("grep", Nobody())
    assert tool is not None and not (await tool.run({"pattern": "x"}, Nobody())).is_error


def test_who_follows_one_document_more_misses_nothing_of_the_others(root: Path) -> None:
    """Of fixed bugs: one address outside ended the telling of all; and what changed just before
    another document was followed was never told."""
    one, other = (f"file://{quote(str(root))}/{name}" for name in ("one", "other"))
    with speaking(serve("--root", str(root))) as lines:
        lines.initialize()
        assert "result" in lines.ask("resources/subscribe", uri=one)
        assert "outside" in lines.ask("resources/subscribe", uri="file:///etc")["error"]["message"]
        deadline, number = time.monotonic() + 30, 0
        heard: dict[str, Any] | None = None
        while heard is None and time.monotonic() < deadline:
            (root / "one").write_text("x" * (number := number + 1))
            with suppress(Empty):
                heard = lines.heard.get(timeout=0.2)
        assert heard is not None and heard["params"]["uri"] == one
        (root / "one").write_text("changed")
        lines.ask("resources/subscribe", uri=other)
        while not lines.notifications:
            message = lines.heard.get(timeout=30)
            assert message is not None
            lines.notifications.append(message)
        assert lines.notifications[0]["params"]["uri"] == one


@pytest.mark.long
def test_a_client_of_its_own_names_the_roots(root: Path, outside: Path) -> None:
    """Where the server was started with none; what cannot be one is told."""
    roots = [f"file://{root}", "file://other.host/", f"file://{root}/none"]
    with speaking([sys.executable, "-c", ALONE]) as lines:
        roots_of(lines, roots)
        told = answered(lines, 100, roots, "list_allowed_directories")
        assert told["structuredContent"]["content"] == f"Allowed directories:\n{root}"
        assert "other.host" in told["content"][1]["text"]
        assert "none" in told["content"][1]["text"]
        refused = answered(lines, 101, roots, "read_text_file", path=f"{outside}/secret")
        assert refused["isError"]
        roots = [f"file://{outside}"]
        lines.send({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
        told = answered(lines, 102, roots, "list_allowed_directories")
        assert told["structuredContent"]["content"] == f"Allowed directories:\n{outside}"
    with speaking([sys.executable, "-c", ALONE]) as lines:
        roots_of(lines, [])
        told = answered(lines, 100, ["https://example.org/"], "list_allowed_directories")
        assert told["isError"] and "is no answer" in told["content"][0]["text"]
    with speaking([sys.executable, "-c", ALONE]) as lines:
        roots_of(lines, [])
        told = answered(lines, 100, [], "list_allowed_directories")
        assert told["isError"] and "it named none" in told["content"][0]["text"]
    with speaking([sys.executable, "-c", ALONE]) as lines:
        roots_of(lines, None)
        told = answered(lines, 100, [], "list_allowed_directories")
        assert told["isError"] and "--root DIR" in told["content"][0]["text"]


ALONE = """
from agent_runtime_mcp.filesystem import FilesystemServer
from agent_runtime_mcp.stdio import Stdio
Stdio(FilesystemServer(alone=True), {}).run()
"""


@pytest.mark.long
def test_a_client_that_is_asked_by_an_answer_names_its_roots(root: Path) -> None:
    """The stateless wire: the call ends with the question, and comes again with the roots."""
    meta = {**META, "io.modelcontextprotocol/clientCapabilities": {"roots": {}}}
    asked = {"name": "list_allowed_directories", "arguments": {}, "_meta": meta}
    with speaking([sys.executable, "-c", ALONE]) as lines:
        first = lines.ask("tools/call", modern=True, **asked)["result"]
        assert first["resultType"] == "input_required"
        (name,) = first["inputRequests"]
        asked["inputResponses"] = {name: {"roots": [{"uri": f"file://{root}"}]}}
        if "requestState" in first:
            asked["requestState"] = first["requestState"]
        told = lines.ask("tools/call", modern=True, **asked)["result"]
        assert str(root) in told["structuredContent"]["content"]


@pytest.mark.anyio
async def test_every_file_is_listed_once_in_pages(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when files come and go between two pages."""
    monkeypatch.setattr(documents, "PAGE_FILES", 7)
    for name in ("b/x/1", "b/x/2", "b/y", "b.c", "a/1", "c\u00e4/e", ".git/config"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    for number in range(20):
        (root / "b" / f"n{number:02}").write_text("")
    server, found, cursor = FilesystemServer([str(root)]), [], ""
    while True:
        page = await server.resources(Nobody(), cursor)
        assert len(page.items) <= 7
        found += [item.uri.removeprefix(f"file://{root}/") for item in page.items]
        cursor = page.next_cursor
        if not cursor:
            break
        (root / "b" / "n03").unlink(missing_ok=True)
    assert len(set(found)) == len(found) == 26
    assert "c%C3%A4/e" in found and ".git/config" not in found
    with pytest.raises(McpFault):
        await server.resources(Nobody(), "9:1:zz")


@pytest.mark.anyio
async def test_a_document_that_cannot_be_read_is_a_fault(root: Path, outside: Path) -> None:
    (root / "big").write_bytes(b"x" * (2 << 20))
    server = FilesystemServer([str(root)])
    for uri, why in (
        (f"file://{outside}/secret", "outside"),
        (f"file://{root}/none", "no such file"),
        (f"file://{root}/big", "read_text_file"),
        ("https://example.org", "no file of this machine"),
        ("file://other.host/f", "no file of this machine"),
    ):
        with pytest.raises(McpFault, match=why):
            await server.read_resource(uri, Nobody())
    (root / "bin").write_bytes(b"\0")
    with pytest.raises(McpFault, match="--root DIR"):
        await FilesystemServer(alone=True).read_resource(f"file://{root}/big", Nobody())
    (content,) = await server.read_resource(f"file://{root}/bin", Nobody())
    assert content["blob"] == "AA=="
    (content,) = await server.read_resource(f"file://{root}", Nobody())
    assert content["text"] == f"file://{root}/big\nfile://{root}/bin"
    reference = {"type": "ref/resource", "uri": "file:///{+path}"}
    start = f"{root}/b".lstrip("/")
    completed = await server.complete(reference, "path", start, {}, Nobody())
    assert completed == [f"{start}ig", f"{start}in"]


@pytest.mark.anyio
async def test_changes_of_watched_files_are_told(
    root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, replaced, made, deleted; not those that nobody watches."""
    monkeypatch.setattr(documents, "LOOK_SECONDS", 0.01)
    server = FilesystemServer([str(root)])
    path = root / "f"
    uri = f"file://{path}"
    changes = server.changes([uri, f"file://{root}/still"], Nobody())
    assert isinstance(changes, AsyncGenerator)
    with pytest.raises(McpFault, match="outside"):
        await anext(server.changes([f"file://{outside}/secret"], Nobody()))

    async def change(number: int) -> None:
        # Later than the first look, which `anext` takes: again until it is seen.
        for turn in range(1000):
            (root / "other").write_text("x" * turn)
            if number == 3:
                path.unlink(missing_ok=True)
            else:
                path.write_text("x" * (number * 1000 + turn))
            await anyio.sleep(0.01)

    for number in range(4):
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(change, number)
                told = await anext(changes)
                tasks.cancel_scope.cancel()
        assert (told.kind, told.uri) == ("resource", uri)
    await changes.aclose()


@pytest.mark.long
def test_the_daemon_serves_its_workspace_roots(root: Path, tmp_path: Path) -> None:
    """To who may submit tasks; and not where a client would like it to."""
    (root / "f").write_text("text")
    settings = {"AGENT_RUNTIME_WORKSPACE_ROOTS": str(root)}
    with serving(tmp_path / "state", settings=settings) as daemon:
        key = daemon.ask("POST", "/v1/keys", {"name": "looks", "role": "viewer"}).json()["secret"]

        def post(method: str, token: str = "", **params: Any) -> Any:
            headers = {
                "Accept": "application/json, text/event-stream",
                "MCP-Protocol-Version": "2026-07-28",
                "Mcp-Method": method,
                "Mcp-Name": params.get("name", ""),
            }
            body = {
                "jsonrpc": "2.0",
                "id": 1,
                "method": method,
                "params": {**params, "_meta": META},
            }
            return daemon.ask("POST", "/mcp/filesystem", body, headers, token=token)

        read: dict[str, Any] = {"name": "read_text_file", "arguments": {"path": f"{root}/f"}}
        told = post("tools/call", **read).json()["result"]
        assert told["structuredContent"] == {"content": "text"}
        assert post("tools/call", key, **read).status == 403
        away: dict[str, Any] = {
            "name": "read_text_file",
            "arguments": {"path": str(tmp_path / "state" / "token")},
        }
        assert "outside" in post("tools/call", **away).json()["result"]["content"][0]["text"]
