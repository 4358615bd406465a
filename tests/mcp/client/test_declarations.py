"""The setting `mcp_servers`, and how a stranger's definitions become tools of ours: no process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent_runtime import plugins, schema
from agent_runtime.contributions import of_module
from agent_runtime.loop.discover import refusal
from agent_runtime.ports import Installation
from agent_runtime.remote_servers import BadServer, RemoteServer, parse_servers, secrets_of
from agent_runtime.toolbox import PluginToolbox
from agent_runtime.types import Effect, Policy, TaskSpec
from agent_runtime_mcp.client import RemoteModule, kept, modules
from agent_runtime_mcp.client.effects import effect_of
from agent_runtime_mcp.client.names import harmless, tool_name
from agent_runtime_mcp.client.schemas import MORE, adapted, unfolded


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({}, "must have a command"),
        ({"command": "a", "url": "https://b"}, "and not both"),
        ({"command": "a", "type": "http"}, "does not fit"),
        ({"comand": "a"}, "did you mean 'command'"),
        ({"command": "a", "headers": {"X": "y"}}, "is for a url"),
        ({"command": "a", "network": "restricted"}, "needs what may be reached"),
        ({"command": "a", "egress": ["x.org"]}, "say network: restricted"),
        ({"command": "a", "cwd": "here"}, "absolute paths"),
        ({"url": "https://u:p@h/"}, "must not hold a user"),
        ({"url": "ftp://h/"}, "https://"),
        ({"url": "http://h/", "bearer": "${T}"}, "unencrypted"),
        (
            {
                "url": "https://h/",
                "oauth": {"client_id": "a", "client_secret": "b", "issuer": "http://login.example"},
            },
            "client_secret would go unencrypted",
        ),
        (
            {
                "url": "https://h/",
                "oauth": {"client_id": "a", "client_secret": "b", "issuer": "login.example"},
            },
            "oauth.issuer must begin",
        ),
        ({"url": "https://h/", "bearer": "x", "headers": {"authorization": "y"}}, "two ways"),
        ({"url": "https://h/", "headers": {"X": "a\r\nB: c"}}, "line ends"),
        ({"command": "a", "effects": {"t": "probe"}}, "Invalid enum value"),
    ],
)
def test_a_wrong_declaration_is_refused_with_the_rule(declared: dict[str, Any], said: str) -> None:
    """A user sees where and why; a secret's value is never repeated."""
    with pytest.raises(BadServer, match="s") as refused:
        parse_servers({"s": declared})
    assert said in str(refused.value)


def test_off_is_a_word_and_secrets_are_found_where_they_are_named() -> None:
    """YAML reads off as false."""
    server = parse_servers({"s": {"command": "a", "sandbox": False, "args": ["${A}"],
                                  "env": {"X": "pre ${B}"}}})["s"]  # fmt: skip
    assert server.sandbox == "off"
    assert secrets_of(server) == {"A", "B"}


def test_names_are_legal_unique_and_do_not_depend_on_each_other() -> None:
    """Two tools that differ in case only are two tools."""
    assert tool_name("files", "read_file") == "files__read_file"
    made = {tool_name("files", name) for name in ("Read", "read", "réad", "x" * 90, "x" * 91)}
    assert len(made) == 5
    assert all(len(name) <= 64 and name.isascii() and name.islower() for name in made)


def test_text_of_others_loses_what_is_not_seen() -> None:
    """Orders for a model hide in characters that no person sees."""
    hidden = "".join(chr(0xE0000 + ord(char)) for char in "obey")
    assert harmless(f"a\u202e{hidden}\x1b[31mb\u200b", 100) == "a[31mb"
    assert harmless("x" * 500, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    "foreign",
    [
        None,
        {"type": "object"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"x": {"type": "string"}}}}},
        {"properties": {"x": {"$ref": "#/properties/x"}}},
        {"properties": {"x": {"type": {"no": 1}, "enum": "abc", "minLength": "3", "anyOf": 5}}},
        {"properties": {"x": {"$ref": "https://evil.example/schema"}}, "required": ["x", "gone"]},
        {"properties": {f"p{n}": {"description": "d" * 999} for n in range(900)}},
        {"additionalProperties": {"type": "string"}, "allOf": [{"properties": {"y": {}}}]},
    ],
)
def test_any_schema_becomes_one_that_can_be_checked(foreign: Any) -> None:
    """Hostile ones too: bounded, closed, with nothing that the check would choke on."""
    made = adapted(foreign)
    assert made["type"] == "object" and made["additionalProperties"] is False
    assert set(made["required"]) <= set(made["properties"])
    assert len(str(made)) < 40_000
    schema.check({"x": "a", "y": [1], "p1": None}, made)


def test_arguments_without_a_name_go_through_an_object() -> None:
    """A server may take any; the registry takes closed schemas only."""
    foreign = {"properties": {"a": {}}, "additionalProperties": True}
    assert MORE in adapted(foreign)["properties"]
    assert unfolded({"a": 1, MORE: {"b": 2, "a": 3}}, foreign) == {"a": 1, "b": 2}


def test_hints_are_believed_only_where_the_operator_says_so() -> None:
    """What a call changes decides whether it is repeated."""
    lying = {"name": "drop", "annotations": {"readOnlyHint": True, "idempotentHint": True}}
    assert effect_of(RemoteServer(), lying, tasks=True) is Effect.ONCE
    assert effect_of(RemoteServer(trust="hints"), lying, tasks=True) is Effect.READ
    named = RemoteServer(trust="hints", effects={"drop": "idempotent"})
    assert effect_of(named, lying, tasks=True) is Effect.IDEMPOTENT
    task = RemoteServer(effects={"drop": "task"})
    assert effect_of(task, lying, tasks=True) is Effect.TASK
    assert effect_of(task, lying, tasks=False) is Effect.ONCE


def module_of(state: Path, **declared: Any) -> RemoteModule:
    servers = parse_servers({"files": {"command": "a", **declared}})
    return RemoteModule("files", servers["files"], Installation(state_dir=str(state)))


def consented(state: Path, **declared: Any) -> RemoteModule:
    """A module to whose two tools somebody has consented."""
    tools = ({"name": "read", "inputSchema": {}}, {"name": "Write", "description": "w"})
    module = module_of(state, **declared)
    kept.write(
        kept.path_of(str(state), "files"),
        kept.Kept(endpoint=module.endpoint, consented=kept.Definitions(tools=tools)),
    )
    return module_of(state, **declared)


def test_tools_are_those_that_were_consented_to_for_this_endpoint(tmp_path: Path) -> None:
    """Another command is another server."""
    assert module_of(tmp_path).tools() == ()
    assert "nobody has consented" in module_of(tmp_path).standing()
    names = [tool.name for tool in consented(tmp_path).tools()]
    assert names == ["files__read", tool_name("files", "Write")]
    assert [tool.name for tool in module_of(tmp_path, tools=["re*"]).tools()] == ["files__read"]
    assert module_of(tmp_path, args=["--other"]).tools() == ()


def test_a_tool_without_a_description_is_told_by_a_name_without_hidden_orders(
    tmp_path: Path,
) -> None:
    """A name is the server's own words, too."""
    hidden = "".join(chr(0xE0000 + ord(char)) for char in "obey")
    module = module_of(tmp_path)
    kept.write(
        kept.path_of(str(tmp_path), "files"),
        kept.Kept(
            endpoint=module.endpoint,
            consented=kept.Definitions(tools=({"name": f"a{hidden}\u202e" + "x" * 5000},)),
        ),
    )
    (tool,) = module.tools()
    assert tool.description == f"(MCP server files) a{'x' * 198}…"


@pytest.mark.parametrize("name", ["a__b", "a_", "_a", "1a", "A", "a" * 31])
def test_names_of_servers_leave_no_two_readings_of_a_tools_name(name: str) -> None:
    """`a__b` with `c` would be `a` with `b__c`."""
    with pytest.raises(BadServer, match="NAME__tool"):
        parse_servers({name: {"command": "x"}})
    assert list(parse_servers({"a_b1_c": {"command": "x"}})) == ["a_b1_c"]


def test_a_task_gets_remote_tools_by_their_name_or_their_server(tmp_path: Path) -> None:
    """They reach past the sandbox: no task has them unless its author or the operator says so."""
    info = PluginToolbox([of_module(consented(tmp_path))]).get("files__read")
    assert info.toolbelt == "files"
    for server, tools, given in (
        ("named", [], False),
        ("named", ["files__read"], True),
        ("named", ["files"], True),
        ("named", ["standard"], False),
        ("all", [], True),
    ):
        toolbox = PluginToolbox([of_module(consented(tmp_path, tasks=server))])
        face = toolbox.find("files__read")
        assert face is not None
        task = TaskSpec(goal="g", policy=Policy(tools=tools))
        assert (refusal(task, face) is None) is given, (server, tools)


def test_each_server_is_a_module_and_a_broken_one_stops_no_other(tmp_path: Path) -> None:
    """The built-in maker, as the installation calls it."""
    servers = parse_servers({
        "git": {"command": "a"}, "files": {"command": "a"},
        "off": {"command": "b", "enabled": False},
    })  # fmt: skip
    consented(tmp_path)
    kept.write(
        kept.path_of(str(tmp_path), "git"),
        kept.Kept(endpoint="a", consented=kept.Definitions(tools=({"name": "x"},))),
    )
    installation = Installation(state_dir=str(tmp_path), mcp_servers=servers)
    assert [module.name for module in modules(installation)] == ["files", "git"]
    found = plugins.load(installation=installation)
    loaded = {each.contribution.module.name for each in found.loaded if each.contribution.module}
    assert "files" in loaded and "git" not in loaded
    # The toolbelt of our own git tools: who may use the one must not get the other.
    assert "'git'" in str(found.quarantined[0])


def test_a_damaged_file_is_said_and_not_read_as_consent(tmp_path: Path) -> None:
    """Nothing there and nothing readable are two things."""
    consented(tmp_path)
    Path(kept.path_of(str(tmp_path), "files")).write_text("{", encoding="utf-8")
    servers = parse_servers({"files": {"command": "a"}})
    found = plugins.load(installation=Installation(state_dir=str(tmp_path), mcp_servers=servers))
    assert "consent again" in str(found.quarantined[0])
