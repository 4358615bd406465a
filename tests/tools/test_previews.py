"""What a call would change, before anybody allows it. The oracle is the call, and `git apply`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime import differences
from agent_runtime.differences import difference
from agent_runtime.errors import ToolRefused
from agent_runtime.ports import PreviewingTool
from agent_runtime.types import Json, ToolCall
from agent_runtime_tools import files, git, http, python, search, shell
from tests.tools.conftest import Workbench

pytestmark = pytest.mark.anyio

TOOLS = {tool.name: tool for tool in files.tools()}


async def preview(use: Workbench, name: str, **arguments: Json) -> str:
    tool = TOOLS[name]
    assert isinstance(tool, PreviewingTool)
    call = ToolCall(
        call_id="c", tool=name, arguments=arguments, workspace=str(use.workspace),
        protected=use.protected,
    )  # fmt: skip
    before = use.listing()
    told = await tool.preview(call)
    assert use.listing() == before, "a preview changes nothing"
    return told


def test_the_tools_that_change_files_by_their_arguments_have_one_and_no_other() -> None:
    """What a shell does cannot be foreseen, and what only reads changes nothing."""
    everything = [
        tool.name
        for module in (shell, files, search, git, python, http)
        for tool in module.tools()
        if hasattr(tool, "preview")
    ]
    assert sorted(everything) == [
        "apply_patch", "copy_file", "create_file", "delete_file", "edit_file", "move_file",
        "write_file",
    ]  # fmt: skip


async def test_an_edit_is_shown_as_a_diff_with_what_is_around_it(use: Workbench) -> None:
    use.write("src/a.py", "".join(f"line {n}\n" for n in range(1, 21)))
    edits = [{"oldText": "line 10\n", "newText": "line ten\nand more\n"}]
    assert await preview(use, "edit_file", path="src/a.py", edits=edits) == (
        "--- a/src/a.py\n+++ b/src/a.py\n@@ -7,7 +7,8 @@\n line 7\n line 8\n line 9\n-line 10\n"
        "+line ten\n+and more\n line 11\n line 12\n line 13\n"
    )


async def test_a_new_file_is_shown_whole_and_its_directory_is_not_made(use: Workbench) -> None:
    told = await preview(use, "write_file", path="new/a.txt", content="one\ntwo")
    assert told == (
        "--- /dev/null\n+++ b/new/a.txt\n@@ -0,0 +1,2 @@\n+one\n+two\n"
        "\\ No newline at end of file\n"
    )
    assert await preview(use, "create_file", path="new/a.txt", content="one\ntwo") == told


async def test_writing_over_a_file_shows_only_what_differs(use: Workbench) -> None:
    use.write("a", "one\ntwo\n")
    told = await preview(use, "write_file", path="a", content="one\n2\n")
    assert told == "--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n"
    told = await preview(use, "write_file", path="a", content="one\ntwo\n")
    assert told == "a stays as it is\n"


async def test_a_patch_is_shown_as_it_falls_here(use: Workbench) -> None:
    """Its hunk has moved: the line numbers are those of the file, not of the patch."""
    use.write("a", "0\n" * 30 + "old\n")
    patch = "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-old\n+new\n"
    told = await preview(use, "apply_patch", patch=patch)
    assert told.startswith("changed a\n--- a/a\n+++ b/a\n@@ -28,4 +28,4 @@\n 0\n")
    assert told.endswith("-old\n+new\n")


async def test_a_change_of_a_mode_alone_is_told(use: Workbench) -> None:
    use.write("a.sh", "x\n").chmod(0o644)
    patch = "diff --git a/a.sh b/a.sh\nold mode 100644\nnew mode 100755\n"
    assert await preview(use, "apply_patch", patch=patch) == (
        "changed a.sh\na.sh: mode 644 to 755\n"
    )


async def test_moving_and_copying_name_both_ends(use: Workbench) -> None:
    use.write("src/a", "12345")
    use.write("src/sub/b", "")
    assert await preview(use, "move_file", source="src/a", destination="b/c") == (
        "rename from src/a\nrename to b/c\n"
    )
    assert await preview(use, "move_file", source="src", destination="lib") == (
        "rename from src\nrename to lib\na directory with 3 names in it\n"
    )
    assert await preview(use, "copy_file", source="src/a", destination="b") == (
        "copy from src/a\ncopy to b\n5 bytes\n"
    )


async def test_deleting_shows_what_is_lost(use: Workbench) -> None:
    use.write("a", "one\n")
    assert await preview(use, "delete_file", path="a") == (
        "--- a/a\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n"
    )
    (use.workspace / "link").symlink_to("a")
    told = await preview(use, "delete_file", path="link")
    assert told == "link: a symbolic link to a of 1 bytes is deleted\n"


async def test_binary_and_empty_files_are_told_in_words(use: Workbench) -> None:
    use.write("a.bin", b"\0" * 100)
    assert "a binary file, from 100 bytes to nothing" in await preview(
        use, "delete_file", path="a.bin"
    )
    told = await preview(use, "write_file", path="empty", content="")
    assert told == "empty: an empty file is made\n"


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("write_file", {"path": "../a", "content": ""}, "outside"),
        ("write_file", {"path": "test_a.py", "content": "x"}, "is protected by"),
        ("delete_file", {"path": "test_a.py"}, "is protected by"),
        ("move_file", {"source": "test_a.py", "destination": "b"}, "is protected by"),
        ("copy_file", {"source": "a", "destination": "test_a.py"}, "is protected by"),
        ("create_file", {"path": "a", "content": ""}, "already exists"),
        ("edit_file", {"path": "a", "edits": [{"oldText": "q", "newText": ""}]}, "is not in the"),
        ("apply_patch", {"patch": "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-q\n+r\n"}, "hunk"),
    ],
)
async def test_what_the_call_would_refuse_its_preview_refuses_alike(
    use: Workbench, name: str, arguments: dict[str, Json], why: str
) -> None:
    use.write("a", "one\n")
    use.write("test_a.py", "pass\n")
    use.protected = ("test_*.py",)
    with pytest.raises(ToolRefused, match=why) as told:
        await preview(use, name, **arguments)
    assert (await use(name, **arguments)).output == str(told.value)


_LINES = st.lists(st.sampled_from(["a", "b", "c", "", "}"]), max_size=40)


@settings(max_examples=60, deadline=None)
@given(_LINES, _LINES, st.booleans(), st.booleans())
def test_git_applies_what_is_shown_and_gets_what_was_meant(
    tmp_path_factory: pytest.TempPathFactory,
    old: list[str],
    new: list[str],
    old_ends: bool,
    new_ends: bool,
) -> None:
    before = ("\n".join(old) + "\n" * old_ends).encode()
    after = ("\n".join(new) + "\n" * new_ends).encode()
    if before == after or not before or not after:
        return
    place = Path(tmp_path_factory.mktemp("apply"))
    try:
        (place / "f").write_bytes(before)
        subprocess.run(
            ["git", "apply", "--unidiff-zero", "-"], cwd=place, check=True,
            input=difference("f", before, after).encode(),
            env={"GIT_CEILING_DIRECTORIES": str(place.parent), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert (place / "f").read_bytes() == after
    finally:
        shutil.rmtree(place)


def test_a_large_change_is_not_compared_line_by_line() -> None:
    """Comparing 20,000 lines with 20,000 others takes minutes."""
    old = "".join(f"{n}\n" for n in range(20_000))
    new = "".join(f"{n}\n" for n in range(20_000, 0, -1))
    told = difference("f", old.encode(), new.encode())
    assert told.count("\n-") >= differences.COMPARED_LINES_MAX
    assert told.startswith("--- a/f\n+++ b/f\n@@ -1,20000 +1,20000 @@\n-0\n-1\n")


def test_one_changed_line_of_a_long_file_is_found_at_once() -> None:
    lines = [f"{n}\n" for n in range(200_000)]
    changed = [*lines[:150_000], "new\n", *lines[150_001:]]
    told = difference("f", "".join(lines).encode(), "".join(changed).encode())
    assert told.splitlines()[2] == "@@ -149998,7 +149998,7 @@"
    assert len(told.splitlines()) == 11
