"""What the docs list is what the code has."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from agent_runtime import plugins
from agent_runtime.loop import codec, native
from agent_runtime.loop.recovery import MODEL_RULES, RULES
from agent_runtime.ports import ModelFaultKind
from agent_runtime.taskfile import read_task_file

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_every_event_type_is_documented_and_exists() -> None:
    """Event type names are a public contract."""
    listed = set(re.findall(r"^\| `([A-Z]\w+)` \|", text_of("events.md"), re.MULTILINE))
    assert listed == set(codec.EVENT_TYPES)


def test_the_fields_of_every_event_are_documented_in_their_order() -> None:
    """They are as much a contract as the names."""
    rows = re.findall(r"^\| `([A-Z]\w+)` \|.*\| ([^|]*) \|$", text_of("events.md"), re.MULTILINE)
    told = {name: re.findall(r"`(\w+)`", fields) for name, fields in rows}
    assert told == {name: list(kind.__struct_fields__) for name, kind in codec.EVENT_TYPES.items()}


def test_inputs_and_decisions_are_told_apart_in_the_docs() -> None:
    """Replay feeds the one and compares the other."""
    inputs, _, decisions = text_of("events.md").partition("## Decisions")
    for name in codec.EVENT_TYPES:
        place = inputs if name in codec.INPUT_TYPES else decisions
        assert f"| `{name}` |" in place, name


def test_every_installed_tool_is_documented() -> None:
    """Tool names are a contract."""
    names = {tool.name for loaded in plugins.load().loaded for tool in loaded.contribution.tools}
    names |= native.NAMES
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", text_of("tools.md"), re.MULTILINE))
    assert listed == names


def test_every_entry_point_group_is_documented() -> None:
    """Plug-in authors look for the group's name."""
    docs = text_of("writing-a-tool.md") + text_of("writing-a-module.md") + text_of("plug-ins.md")
    for group in plugins.GROUPS:
        assert f"`{group}`" in docs, group


def test_every_failure_kind_of_the_recovery_table_is_documented() -> None:
    """The policy table is what users plan with."""
    for kind in RULES:
        assert f"`{kind}`" in text_of("recovery.md"), kind
    for fault, rule in MODEL_RULES.items():
        assert f"| `{fault}` | {rule} |" in text_of("recovery.md"), fault
    assert MODEL_RULES.keys() == set(get_args(ModelFaultKind))


def test_the_changelog_has_an_unreleased_part() -> None:
    """A user-visible change adds a line there."""
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_installed_entry_points_are_those_of_the_project_file() -> None:
    """A stale installation would test something else."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        declared = tomllib.load(file)["project"]["entry-points"]
    for group, points in declared.items():
        found = {
            point.name
            for point in importlib.metadata.entry_points(group=group)
            if point.dist is not None and point.dist.name == "agent-runtime"
        }
        assert found == set(points), group


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_links_between_pages_lead_somewhere(page: str) -> None:
    """A dead link is a broken promise."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(page)):
        if not target.startswith("http"):
            assert (DOCS / target).exists(), target


def test_the_readme_shows_the_diagram_that_is_generated_from_the_table() -> None:
    """The first page must not tell of another machine."""
    diagram = re.search(r"```mermaid\n.*?```", text_of("phases.md"), re.DOTALL)
    assert diagram is not None
    assert diagram[0] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_task_file_of_the_readme_is_one(tmp_path: Path) -> None:
    """Code in the README runs."""
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert block is not None
    path = tmp_path / "task.yaml"
    path.write_text(block[1], encoding="utf-8")
    assert read_task_file(str(path)).objectives[0].check.min_passed == 300


def test_every_make_target_of_the_docs_exists() -> None:
    """A command that is not there is worse than none."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        assert set(re.findall(r"(?m)(?:^|`)make ([a-z]+)", page.read_text("utf-8"))) <= targets
