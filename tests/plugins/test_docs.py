"""The pages on writing tools and modules: their code runs, their facts are ours."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from agent_runtime import plugins
from agent_runtime.modules import registry
from agent_runtime.toolkit import OUTPUT_CHARS_MAX
from agent_runtime.types import Effect
from tests.plugins.installed import importable, install

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["writing-a-tool.md", "writing-a-module.md"]


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def files(page: str) -> dict[str, str]:
    """Every example names its file in its first line."""
    named = {}
    for block in blocks(page, "python"):
        first = block.partition("\n")[0]
        assert first.startswith("# "), f"an example in {page} does not name its file: {first!r}"
        named[first.removeprefix("# ")] = block
    return named


@pytest.mark.parametrize("page", PAGES)
def test_the_example_works_and_its_tests_pass(page: str, tmp_path: Path) -> None:
    examples = files(page)
    for path, text in examples.items():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        (target.parent / "__init__.py").touch()
    with importable(tmp_path / "src"):
        ran = 0
        for path in sorted(path for path in examples if path.startswith("tests/")):
            scope: dict[str, object] = {"__name__": path}
            exec(compile(examples[path], path, "exec"), scope)
            for name, test in list(scope.items()):
                if name.startswith("test_") and callable(test):
                    own = tmp_path / name
                    own.mkdir()
                    test(*([own] if "tmp_path" in test.__code__.co_varnames else []))  # type: ignore[attr-defined]
                    ran += 1
        assert ran


@pytest.mark.parametrize("page", PAGES)
def test_the_entry_points_of_the_example_load(page: str, tmp_path: Path) -> None:
    groups: dict[str, dict[str, str]] = {}
    name = {"writing-a-tool.md": "acme-words", "writing-a-module.md": "acme-notes"}[page]
    for block in blocks(page, "toml"):
        project = tomllib.loads(block)["project"]
        assert project.get("name", name) == name
        groups |= project["entry-points"]
    sources = {p.removeprefix("src/"): t for p, t in files(page).items() if p.startswith("src/")}
    package = next(iter(sources)).partition("/")[0]
    install(tmp_path, name, groups, {f"{package}/__init__.py": "", **sources})
    with importable(tmp_path):
        found = plugins.load(allowed=[name], paths=[str(tmp_path)])
    assert found.quarantined == ()
    assert len(found.loaded) == sum(len(each) for each in groups.values())


def test_the_page_on_tools_tells_every_effect_and_the_limits() -> None:
    text = (DOCS / "writing-a-tool.md").read_text()
    assert re.findall(r"^\| `Effect\.(\w+)` \|", text, re.MULTILINE) == [e.name for e in Effect]
    assert f"{OUTPUT_CHARS_MAX:,} characters" in text
    assert plugins.SETTING in text


def test_the_page_on_modules_tells_the_limits() -> None:
    text = " ".join((DOCS / "writing-a-module.md").read_text().split())
    assert f"It has {registry.INITIALIZE_SECONDS_MAX:g} seconds" in text
    assert f"within {registry.HEALTH_SECONDS_MAX:g} seconds" in text
    assert f"It has {registry.CLEANUP_SECONDS_MAX:g} seconds" in text
