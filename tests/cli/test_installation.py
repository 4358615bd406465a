from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from agent_runtime.access.audit import Entry
from agent_runtime.cli import cli as command_line
from agent_runtime.cli.logs import JsonFormatter
from agent_runtime.loop.submission import new_task_id
from agent_runtime.sandboxes import cgroups
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.stores.sqlite_access import SqliteAccess
from agent_runtime.taskfile import read_task_file
from tests.cli.conftest import FIX, WriteTask
from tests.cli.helpers import UNSAFE, Cli


@pytest.mark.long
def test_tools_are_listed_with_what_they_change(cli: Cli) -> None:
    tools = {tool["name"]: tool for tool in cli("tools", "--json").json()["tools"]}
    assert tools["read_file"]["effect"] == "read" and tools["shell"]["effect"] == "workspace"
    assert tools["shell"]["toolbelt"] == "standard" and tools["shell"]["where"] == "worker"
    assert "shell" in cli("tools").out


def test_modules_are_listed_with_their_tools(cli: Cli) -> None:
    listed = {each["name"]: each for each in cli("modules", "--json").json()["modules"]}
    assert listed["knowledge"]["tools"] == ["search_knowledge", "read_knowledge"]


@pytest.mark.long
def test_a_plugin_that_is_not_installed_is_told(cli: Cli) -> None:
    cli.env["AGENT_RUNTIME_PLUGINS"] = "no-such-plugin"
    assert cli("modules", "--json").json()["not_installed"] == ["no-such-plugin"]
    assert "no-such-plugin" in cli("tools").err


def test_doctor_says_whether_a_task_could_run(cli: Cli) -> None:
    """Exit code 3: configuration."""
    done = cli("doctor", "--json")
    checks = {check["name"]: check for check in done.json()["checks"]}
    assert done.json()["ok"] == (done.code == 0) and done.code in (0, 3)
    assert checks["store"]["ok"] and "schema version" in checks["store"]["detail"]
    assert checks["git"]["ok"] and checks["python"]["ok"]
    assert checks["sandbox"]["ok"] or checks["sandbox"]["remedy"]
    settings = {each["name"]: each for each in done.json()["settings"]}
    assert settings["store"]["source"] == "default"


@pytest.mark.long
def test_doctor_names_what_is_wrong_with_a_store(cli: Cli) -> None:
    broken = cli.home / "broken.db"
    broken.write_bytes(b"this is no database, but long enough to be looked at" * 20)
    done = cli("--store", f"sqlite:///{broken}", "doctor")
    assert done.code == 3 and "NOT  store" in done.out


@pytest.mark.long
def test_a_wrong_setting_is_3(cli: Cli) -> None:
    cli.env["AGENT_RUNTIME_LOG_LEVEL"] = "loud"
    done = cli("ps")
    assert done.code == 3 and "AGENT_RUNTIME_LOG_LEVEL" in done.err


def test_messages_are_json_lines_when_the_setting_says_so(cli: Cli) -> None:
    """docs/settings.md, `log_format`."""
    cli.env |= {"AGENT_RUNTIME_LOG_LEVEL": "debug", "AGENT_RUNTIME_LOG_FORMAT": "json"}
    told = [json.loads(line) for line in cli("modules", "--json").err.splitlines()]
    assert told and all(set(line) == {"at", "level", "logger", "message"} for line in told)
    assert {"debug"} == {line["level"] for line in told}


def test_a_message_says_all_it_has_in_one_json_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("a.b", 40, "", 0, "no %s", ("\udc80",), sys.exc_info())
    text = JsonFormatter().format(record)
    line = json.loads(text)
    assert "\n" not in text and (line["level"], line["logger"]) == ("error", "a.b")
    assert line["message"] == "no ?" and "ValueError: two" in line["traceback"]


@pytest.mark.skipif(sys.platform != "linux", reason="local sandboxes need Linux")
@pytest.mark.skipif("memory" in cgroups.here().found, reason="here memory is limited as a whole")
def test_the_memory_of_a_tasks_processes_is_limited_as_the_setting_says(
    cli: Cli, shell_task: WriteTask
) -> None:
    """docs/settings.md, `sandbox_memory_bytes`; checks too. `ulimit -v` counts kilobytes."""
    cli.env["AGENT_RUNTIME_SANDBOX_MEMORY_BYTES"] = str(3 << 30)
    path = shell_task(f"test $(ulimit -v) = {3 << 20}")
    text = path.read_text(encoding="utf-8").replace("'true'", f"test $(ulimit -v) = {3 << 20}")
    path.write_text(text, encoding="utf-8")
    assert cli("run", str(path)).code == 0


@pytest.mark.long
def test_init_writes_a_task_file_that_is_one(cli: Cli, repository: Path) -> None:
    (repository / "Makefile").write_text("test:\n\ttrue\n", encoding="utf-8")
    done = cli("init", str(repository))
    assert done.code == 0 and "agent-runtime run" in done.out
    task = read_task_file(str(repository / "task.yaml"))
    assert task.workspace is not None and task.workspace.repo == str(repository)
    assert task.objectives[0].check.command == "make test"
    before = (repository / "task.yaml").read_bytes()
    again = cli("init", str(repository))
    assert again.code == 6 and (repository / "task.yaml").read_bytes() == before


async def record_of_long_ago(path: Path) -> None:
    store = await SqliteStore.open(path)
    await SqliteAccess(store).record([Entry(at_us=n, by="key:ci", action="a") for n in range(3)])
    await store.close()


@pytest.mark.long
def test_gc_forgets_what_ended_and_keeps_the_rest(cli: Cli, repository: Path) -> None:
    (cli.home / "task.yaml").write_text(FIX, encoding="utf-8")
    ended = cli("run", "task.yaml", "--json", UNSAFE).lines()[-1]["task_id"]
    waiting = cli("run", "A goal", "--repo", str(repository), "--json", UNSAFE).lines()[-1]
    fresh = cli.state / "workspaces" / new_task_id(time.time_ns() // 1000)  # a fork in the making
    fresh.mkdir(parents=True, exist_ok=True)
    leftover = cli.state / "workspaces" / "task_ffffffffffffffffffffffffffffffff"
    leftover.mkdir()
    anyio.run(record_of_long_ago, cli.state / "store.db")
    nothing = cli("gc", "--json").json()
    assert nothing["forgotten"] == [], "not old enough"
    assert nothing["audit_entries"] == 2, "the newest stays"
    assert nothing["leftovers"] == [leftover.name] and not leftover.exists() and fresh.exists()
    planned = cli("gc", "--older-than", "0", "--dry-run", "--json").json()
    assert planned["forgotten"] == [ended] and cli("show", ended).code == 0
    done = cli("gc", "--older-than", "0", "--json")
    assert done.code == 0 and done.json()["forgotten"] == [ended]
    assert cli("show", ended).code == 5
    assert not (cli.state / "workspaces" / ended).exists()
    assert not (cli.state / "results" / ended).exists()
    assert cli("show", waiting["task_id"]).code == 0


def test_mcp_add_names_the_files_that_the_program_will_not_see(tmp_path: Path) -> None:
    """Found as a user: `mcp add clock -- python server.py`, and then "No such file"."""
    script = tmp_path / "server.py"
    script.touch()
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state")}

    def add(name: str, *options: str) -> str:
        words = ["mcp", "add", name, *options, "--", "python3", str(script), "run"]
        done = CliRunner().invoke(command_line, words, env=env)
        assert done.exit_code == 0, done.output
        return done.stderr

    assert f"add it again with --read {script}" in add("clock")
    for name, options in [
        ("a", ["--read", str(script)]),
        ("b", ["--cwd", str(tmp_path)]),
        ("c", ["--sandbox", "off"]),
    ]:
        assert "--read" not in add(name, *options)


def test_help_as_a_verb_says_what_it_is() -> None:
    done = CliRunner().invoke(command_line, ["help"])
    assert done.exit_code == 2 and "agent-runtime --help" in done.stderr
