from __future__ import annotations

import os
import subprocess
from pathlib import Path

import anyio
import pytest

from tests.tools.conftest import Workbench

pytestmark = pytest.mark.anyio


async def test_matches_come_as_path_line_text_in_the_order_of_the_paths(use: Workbench) -> None:
    use.write("b.py", "import os\nprint(os)\n")
    use.write("a/z.py", "no\nimport sys\n")
    result = await use("grep", pattern=r"^import (\w+)$")
    assert result.output == "a/z.py:2:import sys\nb.py:1:import os"
    assert result.data["matches"][0] == {"path": "a/z.py", "line": 2, "text": "import sys"}


async def test_context_lines_are_marked_and_groups_are_apart(use: Workbench) -> None:
    use.write("a", "1\n2\nhit\n4\n5\n6\n7\nhit\nhit\n")
    result = await use("grep", pattern="hit", context=1)
    assert result.output == "a-2-2\na:3:hit\na-4-4\n--\na-7-7\na:8:hit\na:9:hit"
    assert result.data["count"] == 3


async def test_it_can_be_narrowed_to_a_file_a_directory_or_a_shape(use: Workbench) -> None:
    for path in ("a.py", "src/b.py", "src/c.txt", "src/deep/d.py"):
        use.write(path, "x\n")
    assert (await use("grep", pattern="x", path="src/b.py")).output == "src/b.py:1:x"
    assert (await use("grep", pattern="x", path="src", glob="*.py")).output == (
        "src/b.py:1:x\nsrc/deep/d.py:1:x"
    )
    assert (await use("grep", pattern="X", ignore_case=True, glob="*.{txt,md}")).output == (
        "src/c.txt:1:x"
    )
    assert (await use("grep", pattern="X")).output == "[no match]"


async def test_gits_and_others_files_are_left_out_and_binary_and_links_too(
    use: Workbench, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/f").write_text("needle", "utf-8")
    (use.workspace / "link").symlink_to(tmp_path / "outside")
    (use.workspace / "file_link").symlink_to(tmp_path / "outside/f")
    os.mkfifo(use.workspace / "pipe")
    for path in (".git/config", "node_modules/m.js", "venv/lib/x.py", "binary", "real"):
        use.write(path, "needle\n")
    use.write("binary", b"\0needle\n")
    use.write("venv/pyvenv.cfg", "")
    with anyio.fail_after(10):
        result = await use("grep", pattern="needle")
    assert result.output == "real:1:needle\n[not searched: node_modules, venv]"
    assert (await use("grep", pattern="needle", path="venv/lib")).data["count"] == 1
    assert (await use("grep", pattern="needle", path="link")).kind == "refused"
    assert (await use("grep", pattern="needle", path="pipe")).kind == "refused"


async def test_a_pattern_that_takes_for_ever_is_stopped_and_what_was_found_is_kept(
    use: Workbench,
) -> None:
    """Python cannot interrupt a regular expression: the search runs in a process of its own."""
    use.write("a", "aaa!\n")
    use.write("b", "a" * 60 + "b\n")
    use.seconds = 1.0
    with anyio.fail_after(8):
        result = await use("grep", pattern=r"(a+)+!")
    assert result.output.startswith("a:1:aaa!\n[stopped after 1 s")
    assert result.data["truncated"]


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "*", "(?P<n>a)(?P<n>b)"])
async def test_a_broken_pattern_is_bad_input(use: Workbench, pattern: str) -> None:
    result = await use("grep", pattern=pattern)
    assert (result.ok, result.kind) == (False, "bad_input")
    assert repr(pattern) in result.output


async def test_too_many_matches_are_cut_and_it_says_so(use: Workbench) -> None:
    use.write("a", "x\n" * 50)
    result = await use("grep", pattern="x", limit=3)
    assert result.output.endswith("a:3:x\n[only the first 3 matches are shown: "
                                  "narrow the pattern or the path]")  # fmt: skip
    assert result.data["count"] == 3
    exactly = await use("grep", pattern="x", limit=50)
    assert not exactly.data["truncated"]


async def test_long_lines_and_long_results_stay_readable(use: Workbench) -> None:
    use.write("min.js", "y" * 5000 + "needle" + "z" * 5000 + "\n")
    result = await use("grep", pattern="needle")
    assert len(result.output) < 400 and "needle" in result.output
    use.write("many", "needle in a line that is not short at all\n" * 1000)
    result = await use("grep", pattern="needle", limit=1000)
    assert len(result.output) <= 10_000
    assert "more lines are not shown" in result.output
    assert result.raw is not None and result.raw.count(b"\n") > 900


@pytest.mark.long
async def test_ten_thousand_files_are_searched_in_order(use: Workbench) -> None:
    for number in range(100):
        directory = use.workspace / f"d{number:03}"
        directory.mkdir()
        for index in range(100):
            (directory / f"f{index:03}.txt").write_bytes(b"text\n")
    with anyio.fail_after(20):
        found = await use("glob", pattern="**/*.txt", limit=10_000)
        lines = await use("grep", pattern="text", limit=10)
    assert len(found.data["paths"]) == 10_000
    assert found.data["paths"] == sorted(found.data["paths"])
    assert len(found.output) <= 10_000
    assert lines.data["count"] == 10


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("*.py", ["a.py"]),
        ("**/*.py", ["a.py", "src/b.py", "src/deep/c.py"]),
        ("src/**", ["src/b.py", "src/d.txt", "src/deep/c.py"]),
        ("**/deep/*", ["src/deep/c.py"]),
        ("src/?.py", ["src/b.py"]),
        ("src/[!a-b].*", ["src/d.txt"]),
        ("**/*.{py,txt}", ["a.py", "src/b.py", "src/d.txt", "src/deep/c.py"]),
        ("./src/*.py", ["src/b.py"]),
        ("src/*/", ["src/deep/"]),
        (".hid*", [".hidden"]),
        ("(a+)+$", []),
    ],
)
async def test_globs_have_their_usual_meaning(
    use: Workbench, pattern: str, paths: list[str]
) -> None:
    for path in ("a.py", "src/b.py", "src/deep/c.py", "src/d.txt", ".hidden", ".git/x.py"):
        use.write(path, "")
    assert (await use("glob", pattern=pattern)).data["paths"] == paths


async def test_a_glob_below_a_path_answers_with_paths_of_the_workspace(use: Workbench) -> None:
    use.write("src/a.py", "")
    assert (await use("glob", pattern="*.py", path="src")).output == "src/a.py"


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "a/../../*"])
async def test_a_glob_cannot_leave_its_path(use: Workbench, pattern: str) -> None:
    assert (await use("glob", pattern=pattern)).kind == "refused"


async def test_a_directory_is_listed_with_kinds_and_sizes(use: Workbench) -> None:
    use.write("file", "12345")
    use.write("b directory/x", "")
    (use.workspace / "link").symlink_to("file")
    os.mkfifo(use.workspace / "pipe")
    result = await use("list_directory")
    assert [line.split(maxsplit=0)[0] for line in result.output.splitlines()] == [
        f"{'directory':<13} {entry['bytes']:>12,} b directory"
        if entry["kind"] == "directory"
        else f"{entry['kind']:<13} {entry['bytes']:>12,} {entry['name']}"
        for entry in result.data["entries"]
    ]
    assert [(entry["name"], entry["kind"]) for entry in result.data["entries"]] == [
        ("b directory", "directory"),
        ("file", "file"),
        ("link", "symbolic link"),
        ("pipe", "named pipe"),
    ]
    assert result.data["entries"][1]["bytes"] == 5
    assert (await use("list_directory", path="file")).kind == "refused"
    assert (await use("list_directory", path="missing")).kind == "not_found"


async def test_names_that_are_no_text_are_shown_as_escapes(use: Workbench) -> None:
    odd = os.fsencode(use.workspace) + b"/caf\xe9\n.txt"
    with open(odd, "wb") as file:
        file.write(b"needle\n")
    listed = await use("list_directory")
    assert "caf\\xe9\\n.txt" in listed.output
    for result in (await use("grep", pattern="needle"), await use("glob", pattern="*")):
        assert "caf\\xe9\\n.txt" in result.output
        result.output.encode()


async def test_a_thousand_entries_are_enough_for_one_listing(use: Workbench) -> None:
    subprocess.run(["touch", *(f"f{n:04}" for n in range(1500))], cwd=use.workspace, check=True)
    result = await use("list_directory")
    assert result.data["count"] == 1500 and len(result.data["entries"]) == 1000
    assert "[500 more entries; use glob to narrow]" in result.output
