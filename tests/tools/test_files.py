from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import anyio
import pytest

from agent_runtime.types import Json, ToolCall, ToolResult
from agent_runtime_tools._contents import digest
from agent_runtime_tools._results import os_errors_as_results
from tests.tools.conftest import Workbench

pytestmark = pytest.mark.anyio

ODD_NAMES = [
    "new\nline",
    "-dash",
    "uni\u00e9\u4e2d",
    "two words",
    "tab\there",
    "'quo\"te",
    ".hidden",
]


def edit(old: str, new: str) -> Json:
    return {"oldText": old, "newText": new}


# ---- reading -----------------------------------------------------------------------------


async def test_reading_gives_the_text_and_its_hash(use: Workbench) -> None:
    use.write("a.py", "one\ntwo\nthree")
    result = await use("read_file", path="a.py")
    assert result.output == "one\ntwo\nthree"
    assert result.data == {
        "path": "a.py", "start": 1, "end": 3, "lines": 3, "sha256": digest(b"one\ntwo\nthree"),
        "truncated": False, "bytes": 13, "encoding": "utf-8", "newline": "lf",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [(1, 1, "1\n"), (2, 3, "2\n3\n"), (4, None, "4\n5"), (5, 99, "5"), (3, 3, "3\n")],
)
async def test_a_range_takes_both_its_ends(
    use: Workbench, start: int, end: int | None, text: str
) -> None:
    use.write("a", "1\n2\n3\n4\n5")
    range_end = {} if end is None else {"end": end}
    assert (await use("read_file", path="a", start=start, **range_end)).output == text


async def test_a_range_that_is_not_there_says_how_many_lines_there_are(use: Workbench) -> None:
    use.write("a", "1\n2\n")
    result = await use("read_file", path="a", start=3)
    assert (result.kind, result.output) == ("bad_input", "read_file: 'a' has 2 lines; start is 3")
    assert (await use("read_file", path="a", start=2, end=1)).kind == "bad_input"


async def test_an_empty_file_is_empty_and_no_error(use: Workbench) -> None:
    use.write("empty", "")
    result = await use("read_file", path="empty")
    assert (result.ok, result.output, result.data["lines"]) == (True, "", 0)


async def test_long_text_is_cut_at_a_line_and_says_where_to_read_on(use: Workbench) -> None:
    text = "".join(f"line {n}\n" for n in range(1, 5001))
    use.write("long", text)
    first = await use("read_file", path="long")
    assert len(first.output) <= 10_000
    assert first.raw == text.encode()
    end = first.data["end"]
    assert first.output.endswith(
        f"line {end}\n[lines 1-{end} of 5000 shown; read on with start={end + 1}]"
    )
    assert (await use("read_file", path="long", start=end + 1, end=end + 1)).output == (
        f"line {end + 1}\n"
    )


async def test_one_endless_line_is_cut_in_its_middle(use: Workbench) -> None:
    use.write("minified.js", "x" * 50_000 + "\nnext\n")
    result = await use("read_file", path="minified.js")
    assert len(result.output) <= 10_000
    assert result.data["truncated"] and result.data["end"] == 1
    assert (await use("read_file", path="minified.js", start=2)).output == "next\n"


async def test_a_range_of_a_gigabyte_is_read_without_the_rest(use: Workbench) -> None:
    file = use.write("big.log", "first\nsecond\n" + "x" * 100 + "\n")
    os.truncate(file, 1 << 30)
    with anyio.fail_after(5):
        result = await use("read_file", path="big.log", start=2, end=2)
    # Sparse: what follows is NUL bytes, which only a look at the start would not find.
    assert (result.ok, result.kind) == (False, "refused")
    assert "binary file of 1,073,741,824 bytes" in result.output
    with file.open("r+b") as handle:
        handle.write(b"line\n" * 3000)
    with anyio.fail_after(5):
        result = await use("read_file", path="big.log", start=2, end=2)
    assert (result.output, result.data["lines"], result.data["sha256"]) == ("line\n", None, None)


@pytest.mark.parametrize(
    ("content", "encoding", "text"),
    [
        (b"caf\xe9\n", "latin-1", "café\n"),
        ("\ufeffone\n".encode(), "utf-8", "one\n"),
        ("\ufeffcafé\n".encode("utf-16-le"), "utf-16-le", "café\n"),
        ("\ufeffcafé\n".encode("utf-16-be"), "utf-16-be", "café\n"),
        (b"a\r\nb\r\n", "utf-8", "a\r\nb\r\n"),
    ],
)
async def test_text_of_other_encodings_is_read_and_named(
    use: Workbench, content: bytes, encoding: str, text: str
) -> None:
    use.write("a.txt", content)
    result = await use("read_file", path="a.txt")
    assert (result.ok, result.data["encoding"]) == (True, encoding)
    assert result.output.endswith(text)
    assert result.output == text or result.output.startswith(f"[{encoding}, {len(content)} bytes]")


async def test_a_binary_file_is_refused_by_name_and_size(use: Workbench) -> None:
    use.write("x.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    result = await use("read_file", path="x.png")
    assert result.kind == "refused"
    assert "'x.png' is a binary file of 16 bytes" in result.output


async def test_what_is_no_file_is_refused_by_what_it_is_and_nobody_waits(use: Workbench) -> None:
    os.mkfifo(use.workspace / "pipe")
    (use.workspace / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(use.workspace / "socket"))
        with anyio.fail_after(5):
            for name, what in (
                ("pipe", "a named pipe"),
                ("directory", "a directory"),
                ("socket", "a socket"),
            ):
                for tool, rest in (
                    ("read_file", {}),
                    ("write_file", {"content": "x"}),
                    ("edit_file", {"edits": [edit("a", "b")]}),
                ):
                    result = await use(tool, path=name, **rest)
                    assert result.kind == "refused", (tool, name, result)
                    assert f"{name!r} is {what}, not a file" in result.output


async def test_a_missing_file_is_not_found(use: Workbench) -> None:
    result = await use("read_file", path="no/such.py")
    assert (result.kind, result.output) == ("not_found", "read_file: 'no/such.py' not found")


# ---- where paths lead --------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["../secret", "sub/../../secret", "/etc/passwd", "link", "linkdir/secret", "up/secret", "loop"],
)
@pytest.mark.parametrize("tool", ["read_file", "write_file", "edit_file"])
async def test_no_path_leads_out_of_the_workspace(
    use: Workbench, tmp_path: Path, tool: str, path: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret", "utf-8")
    (use.workspace / "sub").mkdir()
    (use.workspace / "link").symlink_to(secret)
    (use.workspace / "linkdir").symlink_to(tmp_path)
    (use.workspace / "up").symlink_to("..")
    (use.workspace / "loop").symlink_to("loop")
    rest: dict[str, dict[str, Json]] = {
        "read_file": {},
        "write_file": {"content": "x"},
        "edit_file": {"edits": [edit("secret", "x")]},
    }
    result = await use(tool, path=path, **rest[tool])
    assert result.kind == "refused"
    assert secret.read_text("utf-8") == "secret"
    if path.startswith("link"):
        assert repr(str(secret if path == "link" else tmp_path)) in result.output


async def test_links_that_stay_inside_are_followed_and_stay_links(use: Workbench) -> None:
    use.write("real/a.txt", "one\n")
    (use.workspace / "relative").symlink_to("real/a.txt")
    (use.workspace / "absolute").symlink_to(use.workspace / "real")
    assert (await use("read_file", path="relative")).output == "one\n"
    assert (await use("read_file", path="absolute/../real/./a.txt")).output == "one\n"
    assert (await use("write_file", path="relative", content="two\n")).ok
    assert use.read("real/a.txt") == b"two\n"
    assert (use.workspace / "relative").is_symlink()


async def test_absolute_paths_below_the_workspace_are_taken(use: Workbench) -> None:
    path = str(use.workspace / "a/b.txt")
    assert (await use("write_file", path=path, content="x")).data["path"] == "a/b.txt"
    assert (await use("read_file", path=path)).output == "x"
    twin = Path(f"{use.workspace}-twin")
    twin.mkdir()
    assert (await use("write_file", path=f"{twin}/x", content="x")).kind == "refused"


async def test_a_directory_that_is_swapped_for_a_link_all_the_time_is_never_a_way_out(
    use: Workbench, tmp_path: Path
) -> None:
    """The walk holds what it checked: between check and use nothing can be exchanged."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("end", "utf-8")
    use.write("inside/f", "end")
    (use.workspace / "evil").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        a, b, c = (use.workspace / name for name in ("inside", "evil", "spare"))
        while not stop.is_set():
            a.rename(c)
            b.rename(a)
            a.rename(b)
            c.rename(a)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        edits = [edit("end", "more end")]
        kinds = {(await use("edit_file", path="inside/f", edits=edits)).kind for _ in range(300)}
    finally:
        stop.set()
        thread.join()
    assert (outside / "f").read_text("utf-8") == "end"
    assert [path.name for path in outside.iterdir()] == ["f"]
    assert "" in kinds
    assert kinds <= {"", "refused", "not_found"}


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_names_work_everywhere(use: Workbench, name: str) -> None:
    assert (await use("create_file", path=name, content="a\n")).ok
    assert (await use("edit_file", path=name, edits=[edit("a", "b")])).ok
    assert (await use("read_file", path=name)).output == "b\n"
    assert (await use("copy_file", source=name, destination=f"d/{name}")).ok
    assert (await use("move_file", source=name, destination=f"e/{name}")).ok
    assert (await use("delete_file", path=f"d/{name}")).ok
    assert use.listing() == ["d", "e", f"e/{name}"]


async def test_a_nul_character_is_no_path(use: Workbench) -> None:
    assert (await use("read_file", path="a\0b")).kind == "refused"


# ---- writing -----------------------------------------------------------------------------


async def test_writing_makes_directories_and_keeps_the_mode_of_what_was_there(
    use: Workbench,
) -> None:
    first = await use("write_file", path="a/b/run.sh", content="#!/bin/sh\n")
    assert first.output == "created a/b/run.sh: 10 bytes"
    (use.workspace / "a/b/run.sh").chmod(0o755)
    second = await use("write_file", path="a/b/run.sh", content="#!/bin/bash\n")
    assert second.output == "replaced a/b/run.sh: 12 bytes"
    assert second.data["sha256"] == digest(b"#!/bin/bash\n")
    assert (use.workspace / "a/b/run.sh").stat().st_mode & 0o777 == 0o755
    assert use.listing() == ["a", "a/b", "a/b/run.sh"]


async def test_creating_fails_if_anything_is_there(use: Workbench) -> None:
    use.write("a", "old")
    (use.workspace / "dangling").symlink_to("nowhere")
    (use.workspace / "directory").mkdir()
    for path in ("a", "dangling", "directory"):
        result = await use("create_file", path=path, content="new")
        assert result.kind == "refused" and "already exists" in result.output
    assert use.read("a") == b"old"
    assert (await use("create_file", path="b", content="new")).ok


async def test_of_two_who_create_the_same_file_one_is_refused(use: Workbench) -> None:
    results = []

    async def create(content: str) -> None:
        results.append(await use("create_file", path="a", content=content))

    async with anyio.create_task_group() as tg:
        for content in "abcdefgh":
            tg.start_soon(create, content)
    assert sorted(result.ok for result in results) == [False] * 7 + [True]
    assert use.listing() == ["a"]


async def test_a_file_in_the_place_of_a_directory_is_named(use: Workbench) -> None:
    use.write("a", "x")
    result = await use("write_file", path="a/b", content="x")
    assert (result.kind, result.output) == ("refused", "'a/b': 'a' is a file, not a directory")


async def test_half_a_surrogate_pair_is_bad_input(use: Workbench) -> None:
    assert (await use("write_file", path="a", content="\ud800")).kind == "bad_input"
    assert use.listing() == []


# ---- editing -----------------------------------------------------------------------------


async def test_edits_are_made_one_after_the_other(use: Workbench) -> None:
    use.write("a", "one two\n")
    result = await use("edit_file", path="a", edits=[edit("one", "three"), edit("three", "four")])
    assert (result.ok, use.read("a")) == (True, b"four two\n")


async def test_if_one_edit_fails_none_is_made(use: Workbench) -> None:
    use.write("a", "one\ntwo\n")
    result = await use("edit_file", path="a", edits=[edit("one", "1"), edit("three", "3")])
    assert result.kind == "refused"
    assert "edit 2 of 2 in 'a': oldText is not in the file" in result.output
    assert use.read("a") == b"one\ntwo\n"


async def test_several_matches_are_counted_and_placed_overlaps_too(use: Workbench) -> None:
    use.write("a", "x\naaa\nx\n")
    assert (
        "matches 2 times (lines 1, 3)"
        in (await use("edit_file", path="a", edits=[edit("x", "y")])).output
    )
    assert "matches 2 times" in (await use("edit_file", path="a", edits=[edit("aa", "b")])).output


async def test_a_near_miss_shows_the_line_that_was_meant(use: Workbench) -> None:
    use.write("a.py", "def total(items):\n    return sum(items)\n")
    spaces = await use("edit_file", path="a.py", edits=[edit("  return sum(items)", "x")])
    assert spaces.ok  # two of the four blanks are still exact text
    use.write("a.py", "def total(items):\n\treturn sum(items)\n")
    spaces = await use("edit_file", path="a.py", edits=[edit("    return sum(items)", "x")])
    assert "Line 2 matches but for white space" in spaces.output
    typo = await use("edit_file", path="a.py", edits=[edit("def totals(item):", "x")])
    assert "Nearest lines: 1: 'def total(items):'" in typo.output


async def test_a_stale_hash_is_refused_with_the_present_one(use: Workbench) -> None:
    use.write("a", "new")
    stale = await use("edit_file", path="a", edits=[edit("new", "x")], expected_hash="0" * 64)
    assert stale.kind == "refused" and digest(b"new") in stale.output
    fresh = await use("edit_file", path="a", edits=[edit("new", "x")], expected_hash=digest(b"new"))
    assert fresh.ok and fresh.data["sha256"] == digest(b"x")


@pytest.mark.parametrize(
    ("before", "edits", "after"),
    [
        (b"a\r\nb\r\nc\r\n", [edit("a\nb", "a\nx\nb")], b"a\r\nx\r\nb\r\nc\r\n"),
        (b"a\r\nb\r\n", [edit("b", "b\nc")], b"a\r\nb\r\nc\r\n"),
        (b"a\r\nb\nc\r\n", [edit("b\nc", "d")], b"a\r\nd\r\n"),
        (b"a\r\nb\nc\n", [edit("a\nb", "d\ne")], b"d\r\ne\nc\n"),
        (b"\xef\xbb\xbfa\n", [edit("a", "b")], b"\xef\xbb\xbfb\n"),
        (b"caf\xe9 a\n", [edit("a\n", "b\n")], b"caf\xe9 b\n"),
        ("\ufeffa\n".encode("utf-16-le"), [edit("a", "é")], "\ufeffé\n".encode("utf-16-le")),
        (b"no end", [edit("end", "END")], b"no END"),
    ],
)
async def test_line_ends_marks_and_foreign_bytes_stay(
    use: Workbench, before: bytes, edits: list[Json], after: bytes
) -> None:
    use.write("a", before).chmod(0o640)
    result = await use("edit_file", path="a", edits=edits)
    assert result.ok, result.output
    assert use.read("a") == after
    assert (use.workspace / "a").stat().st_mode & 0o777 == 0o640


async def test_a_character_that_the_encoding_lacks_is_refused(use: Workbench) -> None:
    use.write("a", b"caf\xe9\n")
    result = await use("edit_file", path="a", edits=[edit("caf", "中")])
    assert result.kind == "refused" and "latin-1" in result.output


# ---- moving, copying, deleting -----------------------------------------------------------


async def test_files_and_directories_move_with_what_is_in_them(use: Workbench) -> None:
    use.write("src/a", "1")
    use.write("src/deep/b", "2")
    assert (await use("move_file", source="src", destination="lib/new")).ok
    assert use.listing() == ["lib", "lib/new", "lib/new/a", "lib/new/deep", "lib/new/deep/b"]


async def test_nothing_is_overwritten_by_a_move_or_a_copy(use: Workbench) -> None:
    use.write("a", "1")
    use.write("b", "2")
    for tool in ("move_file", "copy_file"):
        result = await use(tool, source="a", destination="b")
        assert result.kind == "refused" and "'b' already exists" in result.output
    assert (use.read("a"), use.read("b")) == (b"1", b"2")
    assert (await use("move_file", source="no", destination="c")).kind == "not_found"


async def test_a_copy_has_the_mode_of_its_source(use: Workbench) -> None:
    use.write("a.sh", "x").chmod(0o755)
    assert (await use("copy_file", source="a.sh", destination="deep/b.sh")).ok
    assert (use.workspace / "deep/b.sh").stat().st_mode & 0o777 == 0o755
    assert use.read("a.sh") == b"x"


async def test_a_directory_cannot_move_into_itself_and_the_workspace_not_at_all(
    use: Workbench,
) -> None:
    use.write("a/b", "x")
    assert not (await use("move_file", source="a", destination="a/c")).ok
    assert not (await use("move_file", source=".", destination="c")).ok
    assert "a/b" in use.listing()


async def test_deleting_takes_files_and_links_and_no_directories(use: Workbench) -> None:
    use.write("target", "x")
    (use.workspace / "link").symlink_to("target")
    (use.workspace / "directory").mkdir()
    assert (await use("delete_file", path="link")).ok
    assert (await use("delete_file", path="directory")).kind == "refused"
    assert (await use("delete_file", path="missing")).kind == "not_found"
    assert use.listing() == ["directory", "target"]


# ---- what must stay ----------------------------------------------------------------------


@pytest.mark.parametrize("path", [".git/config", ".git", "sub/.git/hooks/x", ".GIT/config"])
async def test_gits_own_files_are_not_written(use: Workbench, path: str) -> None:
    use.write("a", "x")
    for tool, arguments in (
        ("write_file", {"path": path, "content": "x"}),
        ("create_file", {"path": path, "content": "x"}),
        ("copy_file", {"source": "a", "destination": path}),
        ("move_file", {"source": "a", "destination": path}),
    ):
        result = await use(tool, **arguments)
        assert result.kind == "refused" and "belongs to git" in result.output
    assert use.listing() == ["a"]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("write_file", {"path": "tests/t.py", "content": "x"}),
        ("write_file", {"path": "./tests//sub/../t.py", "content": "x"}),
        ("write_file", {"path": "alias/t.py", "content": "x"}),
        ("write_file", {"path": "tests/new/t.py", "content": "x"}),
        ("create_file", {"path": "tests/t2.py", "content": "x"}),
        ("edit_file", {"path": "tests/t.py", "edits": [edit("keep", "x")]}),
        ("edit_file", {"path": "tests/t.py", "edits": [edit("not there", "x")]}),
        ("move_file", {"source": "tests/t.py", "destination": "gone.py"}),
        ("move_file", {"source": "tests", "destination": "gone"}),
        ("move_file", {"source": "a.py", "destination": "tests/a.py"}),
        ("move_file", {"source": "pkg", "destination": "tests/pkg"}),
        ("copy_file", {"source": "a.py", "destination": "tests/t.py"}),
        ("copy_file", {"source": "a.py", "destination": "alias/a.py"}),
        ("delete_file", {"path": "tests/t.py"}),
    ],
)
async def test_protected_files_stay_whatever_the_way_to_them(
    use: Workbench, tool: str, arguments: dict[str, Json]
) -> None:
    """DESIGN, completion: file tools refuse protected files."""
    use.write("tests/t.py", "keep\n")
    (use.workspace / "tests/sub").mkdir()
    use.write("a.py", "a\n")
    use.write("pkg/m.py", "m\n")
    (use.workspace / "alias").symlink_to("tests")
    before = use.listing()
    use.protected = ("tests/**",)
    result = await use(tool, **arguments)
    assert result.kind == "refused", result
    assert "is protected by 'tests/**'" in result.output
    assert result.paths and result.paths[0].startswith(("tests", "alias"))
    assert (use.listing(), use.read("tests/t.py")) == (before, b"keep\n")


async def test_a_protected_name_that_is_a_link_protects_what_it_links_to(use: Workbench) -> None:
    use.write("helper.py", "x")
    (use.workspace / "conftest.py").symlink_to("helper.py")
    use.protected = ("conftest.py",)
    assert (await use("write_file", path="conftest.py", content="y")).paths == ("conftest.py",)


async def test_a_released_file_may_change(use: Workbench) -> None:
    use.protected = ("tests/**", "!tests/helpers.py")
    assert (await use("write_file", path="tests/helpers.py", content="x")).ok


async def test_of_a_shared_file_only_the_guarded_sections_stay(use: Workbench) -> None:
    use.write("pyproject.toml", '[tool.pytest.ini_options]\naddopts = "-q"\n[project]\nname="a"\n')
    use.protected = ("conftest.py",)
    assert (await use("edit_file", path="pyproject.toml", edits=[edit('"a"', '"b"')])).ok
    for tool, arguments in (
        ("edit_file", {"path": "pyproject.toml", "edits": [edit('"-q"', '"-k x"')]}),
        ("delete_file", {"path": "pyproject.toml"}),
        ("move_file", {"source": "pyproject.toml", "destination": "old.toml"}),
        ("write_file", {"path": "pyproject.toml", "content": ""}),
    ):
        result = await use(tool, **arguments)
        assert (result.kind, result.paths) == ("refused", ("pyproject.toml",))
        assert "[tool.pytest*] of pyproject.toml" in result.output
    use.write("x.json", '{"scripts": {"test": "true"}}')
    assert (await use("copy_file", source="x.json", destination="package.json")).paths == (
        "package.json",
    )
    use.protected = ()
    assert (await use("delete_file", path="pyproject.toml")).ok


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_full_disk_is_told_without_the_name_that_nobody_has() -> None:
    @os_errors_as_results
    def write(call: ToolCall) -> ToolResult:
        with open("/dev/full", "w", encoding="utf-8", buffering=1) as file:
            file.write("x\n")
        return ToolResult(ok=True, output="")

    result = write(ToolCall(call_id="s.1", tool="edit_file", arguments={}, workspace="/"))
    assert (result.kind, result.output) == ("failed", "edit_file: No space left on device")
