"""The user's folders: what is handed to the sandboxes, and what stays where it is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from agent_runtime.app import shared_dir
from agent_runtime.contributions import of_module
from agent_runtime.errors import ConfigError, PluginError
from agent_runtime.loop.hands import with_shared
from agent_runtime.modules import reading
from agent_runtime.modules.knowledge import KnowledgeModule
from agent_runtime.modules.knowledge.folders import Mirror, folders_of
from agent_runtime.modules.reading import Unreadable
from agent_runtime.modules.sharing import Refreshing, labels
from agent_runtime.plugins import load
from agent_runtime.settings import Settings
from agent_runtime.toolbox import PluginToolbox
from agent_runtime.types import ToolCall, ToolInfo
from tests.sandboxes.support import make_sandbox, make_spec


@pytest.fixture
def anyio_backend() -> str:
    """Threads copy: virtual time does not see them."""
    return "asyncio"


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def listing(directory: Path) -> list[str]:
    return sorted(
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".left-out"
    )


def test_markdown_and_skills_are_copied_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "Team Notes"
    write(folder / "a.md", "a")
    write(folder / "deep" / "b.MD", "b")
    write(folder / ".env", "TOKEN=1")
    write(folder / "key.pem", "secret")
    write(folder / ".git" / "c.md", "c")
    write(folder / "skills" / "pdf" / "SKILL.md", "---\nname: pdf\n---\n")
    write(folder / "skills" / "pdf" / "fill.py", "print()")
    write(folder / "skills" / "pdf" / "blob.bin", b"\0\0")
    write(tmp_path / "outside.md", "outside")
    (folder / "link.md").symlink_to(tmp_path / "outside.md")
    (folder / "inner.md").symlink_to("a.md")
    os.mkfifo(folder / "pipe.md")
    target = tmp_path / "shared"
    Mirror([str(folder)], str(target)).refresh()
    assert listing(target / "team-notes") == [
        "a.md", "deep/b.MD", "inner.md", "skills/pdf/SKILL.md", "skills/pdf/fill.py",
    ]  # fmt: skip
    left_out = (target / "team-notes" / ".left-out").read_text(encoding="utf-8")
    assert [line.partition(":")[0] for line in left_out.splitlines()] == [
        "link.md", "pipe.md", "skills/pdf/blob.bin",
    ]  # fmt: skip
    for path in [target, *target.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def test_a_copy_follows_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    note = write(folder / "sub" / "a.md", "one")
    target = tmp_path / "shared"
    mirror = Mirror([str(folder)], str(target))
    mirror.refresh()
    stamp = note.stat()
    note.write_text("two", encoding="utf-8")
    os.utime(note, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    write(folder / "b.md", "b")
    mirror.refresh()
    assert (target / "notes" / "sub" / "a.md").read_text(encoding="utf-8") == "two"
    assert listing(target) == ["notes/b.md", "notes/sub/a.md"]
    note.unlink()
    mirror.refresh()
    assert listing(target) == ["notes/b.md"] and not (target / "notes" / "sub").exists()
    folder.rename(tmp_path / "away")
    mirror.refresh()
    assert listing(target) == ["notes/b.md"], "what was copied stays"
    assert mirror.problems == {str(folder): "No such file or directory"}
    (tmp_path / "away").rename(folder)
    mirror.refresh()
    assert mirror.problems == {}
    Mirror([], str(target)).refresh()
    assert listing(target) == []


def test_a_file_and_a_directory_may_change_places(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    first = write(folder / "a.md", "a")
    write(folder / "b.md" / "c.md", "c")
    target = tmp_path / "shared"
    mirror = Mirror([str(folder)], str(target))
    mirror.refresh()
    first.unlink()
    write(folder / "a.md" / "d.md", "d")
    (folder / "b.md" / "c.md").unlink()
    (folder / "b.md").rmdir()
    write(folder / "b.md", "b")
    mirror.refresh()
    assert listing(target) == ["notes/a.md/d.md", "notes/b.md"] and mirror.problems == {}


def test_what_turns_unreadable_is_taken_back(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    note = write(folder / "a.md", "a")
    target = tmp_path / "shared"
    mirror = Mirror([str(folder)], str(target))
    mirror.refresh()
    note.write_bytes(b"\0")
    mirror.refresh()
    assert listing(target) == []
    note.write_text("again", encoding="utf-8")
    mirror.refresh()
    assert listing(target) == ["notes/a.md"]


def test_a_directory_that_becomes_a_link_while_it_is_read_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path was inside when it was resolved, and is not when it is opened."""
    folder = tmp_path / "notes"
    write(folder / "sub" / "a.md", "a")
    write(tmp_path / "outside" / "a.md", "secret")
    resolve = reading.resolve

    def resolved_then_swapped(root: str, path: str) -> str:
        found = resolve(root, path)
        (folder / "sub").rename(folder / "old")
        (folder / "sub").symlink_to(tmp_path / "outside")
        return found

    monkeypatch.setattr(reading, "resolve", resolved_then_swapped)
    with pytest.raises(Unreadable, match="leads out of"):
        reading.read(str(folder), "sub/a.md", bytes_max=100)


def test_folders_of_one_name_are_told_apart() -> None:
    paths = ["/a/notes", "/b/Notes/", "/c/repo", "/d/…", "/a/notes"]
    assert labels(paths, taken=("repo",)) == {
        "notes": "/a/notes", "notes-2": "/b/Notes/", "repo-2": "/c/repo", "folder": "/d/…",
    }  # fmt: skip


def test_folders_are_separated_as_a_path_or_as_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert folders_of({"folders": "/a:~/b"}) == folders_of({"folders": "/a\n~/b"})
    assert folders_of({"folders": "/a/../c:"}) == ["/c"] and folders_of({}) == []
    with pytest.raises(ValueError, match="'notes' must be an absolute path"):
        folders_of({"folders": "notes"})
    with pytest.raises(ValueError, match="no setting 'folder'; it has 'folders'"):
        folders_of({"folder": "/a"})


@pytest.mark.anyio
async def test_a_wrong_setting_quarantines_the_module_with_the_reason(tmp_path: Path) -> None:
    toolbox = PluginToolbox(
        [of_module(KnowledgeModule())],
        shared_dir=str(tmp_path),
        settings={"knowledge": {"folders": "x"}},
    )
    async with toolbox:
        with pytest.raises(PluginError, match="'x' must be an absolute path"):
            await toolbox.activate("knowledge")


@pytest.mark.anyio
async def test_the_module_copies_while_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Refreshing.start, "__kwdefaults__", {"seconds": 0.05})
    folder = tmp_path / "notes"
    write(folder / "a.md", "a")
    shared = tmp_path / "shared"
    shared.mkdir()
    toolbox = PluginToolbox(
        [of_module(KnowledgeModule())],
        shared_dir=str(shared),
        settings={"knowledge": {"folders": str(folder)}},
    )
    async with toolbox:
        await toolbox.activate("knowledge")
        assert listing(shared) == ["knowledge/notes/a.md"]
        write(folder / "b.md", "b")
        with anyio.fail_after(30):
            while "knowledge/notes/b.md" not in listing(shared):
                await anyio.sleep(0.05)
        assert [each.state for each in await toolbox.modules.health()] == ["well"]
        await toolbox.deactivate("knowledge")
        await toolbox.activate("knowledge")
    assert listing(shared) == ["knowledge/notes/a.md", "knowledge/notes/b.md"]


def test_two_ways_of_telling_modules_have_two_directories(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    loaded = load()
    told = [{"knowledge": {"folders": path}} for path in ("/a", "/b", "/a")]
    a, b, again = (shared_dir(Settings(store=store, modules=each), loaded) for each in told)
    assert a == again != b and os.path.isdir(a)
    assert shared_dir(Settings(store=store), loaded) == ""
    with pytest.raises(ConfigError, match="no module is called 'knowlege'; did you mean 'knowl"):
        shared_dir(Settings(store=store, modules={"knowlege": {}}), loaded)


def test_state_in_the_workspace_is_not_mounted_into_it(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    assert with_shared(spec, "") is spec
    assert with_shared(spec, f"{spec.mount}/state/shared") is spec
    assert with_shared(spec, f"{spec.mount}-state").layers[0].path == f"{spec.mount}-state"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "kind", ["bubblewrap", pytest.param("container", marks=pytest.mark.long), "unsafe"]
)
def test_the_tools_work_in_a_real_worker(kind: str, tmp_path: Path) -> None:
    """Practices, the user's folders and the repository, from inside; none of it can be written."""
    sandbox = make_sandbox(kind, tmp_path / "state")
    shared = tmp_path / "state" / "shared" / "x"
    folder = write(tmp_path / "notes" / "pangolin.md", "# Pangolins\n\nRoll up.\n").parent
    write(tmp_path / "workspace" / "AGENTS.md", "# Ours\n\npangolin\n")
    Mirror([str(folder)], str(shared / "knowledge")).refresh()
    contribution = of_module(KnowledgeModule())
    infos = {
        tool.name: ToolInfo(
            name=tool.name, description="", parameters={}, toolbelt="knowledge", where="worker",
            source=contribution.sources[tool.name],
        )
        for tool in contribution.tools
    }  # fmt: skip
    spec = with_shared(make_spec(tmp_path), str(shared))

    async def run() -> list[str]:
        session = await sandbox.open(spec)
        try:
            said = []
            for name, arguments in (
                ("search_knowledge", {"query": "pangolin"}),
                ("read_knowledge", {"ref": "notes:pangolin.md"}),
                ("read_knowledge", {"ref": "repo:AGENTS.md"}),
                ("read_knowledge", {"ref": "practices:git-hygiene.md"}),
            ):
                call = ToolCall(call_id="c", tool=name, arguments=arguments, workspace=spec.mount)
                result = await session.call(infos[name], call, deadline_seconds=30)
                assert result.ok, result.output
                said.append(result.output)
            return said
        finally:
            await session.close()

    found, note, ours, practice = anyio.run(run)
    assert "notes:pangolin.md:1-3" in found and "repo:AGENTS.md:1-3" in found
    assert "Roll up." in note and "pangolin" in ours and "# Git hygiene" in practice
    if kind != "unsafe":
        done = anyio.run(
            lambda: sandbox.execute(
                replace(spec, owner_id="task_2"),
                ["sh", "-c", f"echo x > {shared}/knowledge/notes/pangolin.md"],
                deadline_seconds=30,
            )
        )
        assert done.exit != 0 and "Roll up." in (folder / "pangolin.md").read_text("utf-8")
