from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agent_runtime.cli import VERBS, cli

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
HEAVY = {
    "anyio", "apsw", "asyncio", "git", "jinja2", "logging", "msgspec", "pydantic",
    "pydantic_settings", "rich", "ssl", "subprocess", "yaml",
}  # fmt: skip


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every verb as one types it."""
    for name in VERBS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        if isinstance(command, click.Group):
            for inner in command.list_commands(click.Context(command)):
                each = command.get_command(click.Context(command), inner)
                assert each is not None
                yield f"{name} {inner}", each
        else:
            yield name, command


def options(command: click.Command) -> Iterator[click.Option]:
    yield from (each for each in command.params if isinstance(each, click.Option))


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["no-such-verb"]])
def test_help_imports_click_and_nothing_heavy(arguments: list[str]) -> None:
    """DESIGN: --help under 150 ms CPU. Modules are counted, because time depends on the machine."""
    script = (
        "import sys; before = set(sys.modules)\n"
        "from agent_runtime.cli import cli\n"
        f"cli.main({arguments!r}, prog_name='agent-runtime', standalone_mode=False)\n"
    )
    print_modules = "import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{_tried(script)}{print_modules}"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = json.loads(done.stdout.splitlines()[-1])
    assert HEAVY.isdisjoint(name.partition(".")[0] for name in imported)
    assert {name for name in imported if name.startswith("agent_runtime")} == {
        "agent_runtime", "agent_runtime.cli", "agent_runtime.errors",
    }  # fmt: skip


def _tried(script: str) -> str:
    lines = "".join(f"    {line}\n" for line in script.splitlines())
    return f"import sys; before = set(sys.modules)\ntry:\n{lines}except BaseException: pass\n"


def test_every_verb_loads_and_says_in_its_help_what_the_list_says() -> None:
    for name, (_, text) in VERBS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None and command.name == name
        assert command.get_short_help_str(limit=200) == text


def test_every_verb_has_examples_and_every_option_a_help() -> None:
    for name, command in commands():
        assert command.epilog and f"agent-runtime {name}" in command.epilog, name
        assert all(option.help for option in options(command)), name
        assert CliRunner().invoke(cli, [*name.split(), "--help"]).exit_code == 0


def test_every_verb_that_prints_data_has_json() -> None:
    """DESIGN: --json on everything that prints data. A patch is data in a form of its own."""
    for name in ("run", "resume", "ps", "show", "logs", "verify", "tools", "modules", "doctor",
                 "report", "gc"):  # fmt: skip
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert any("--json" in option.opts for option in options(command)), name


@pytest.mark.parametrize("word", ["serv", "shw", "x"])
def test_an_unknown_verb_is_a_usage_error_that_names_the_nearest(word: str) -> None:
    done = CliRunner().invoke(cli, [word])
    assert done.exit_code == 2 and f"no verb is called {word!r}" in done.output
    assert "did you mean" in done.output or "there are: run" in done.output


def test_a_task_file_in_place_of_a_verb_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.touch()
    assert f"agent-runtime run {path}" in CliRunner().invoke(cli, [str(path)]).output


def test_the_docs_have_every_verb_and_every_option() -> None:
    text = DOCS.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `([^`]+)`\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    assert set(sections) == {name for name, _ in commands()}
    for name, command in commands():
        for option in options(command):
            if "--help" not in option.opts:
                for spelling in option.opts:
                    assert f"`{spelling}" in sections[name], (name, spelling)
    for option in options(cli):
        assert any(f"`{spelling}" in text for spelling in option.opts), option.name


def test_the_docs_name_no_option_that_there_is_not() -> None:
    known = {spelling for _, command in commands() for o in options(command) for spelling in o.opts}
    known |= {spelling for option in options(cli) for spelling in option.opts}
    known |= {"--help", "-h", "--version"}
    named = set(re.findall(r"^\| `(--?[a-z-]+)", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= known
