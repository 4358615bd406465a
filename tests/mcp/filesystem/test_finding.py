"""Lists, trees and searches: bounded, in the order of names, whatever the names are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_runtime_mcp.filesystem import globs, listing, searching, walking
from tests.mcp.filesystem.conftest import Files

ODD = ["new\nline", "[FILE] x", "tab\tstop", 'quote"d', "umläut", "-rf", "*", " "]


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("*.py", ["a.py", ".py"], ["b/a.py", "a.pyc"]),
        ("**/*.py", ["a.py", "b/c/a.py"], ["a.py/x"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "b/a"]),
        ("a/**/b", ["a/b", "a/x/y/b"], ["a/x", "xa/b"]),
        ("**/x/**/y", ["x/y", "q/x/r/x/s/y"], ["y", "x"]),
        ("*.{py,md}", ["r.md", "r.py"], ["r.{py,md}"]),
        ("[!a-c]?", ["dx"], ["ax", "d", "/x"]),
        ("[]a]", ["]", "a"], ["b"]),
        ("a*b*c", ["abc", "aXbYc", "abbcc"], ["acb", "a/b/c"]),
        ("\\*", ["*"], ["a"]),
        ("[", ["["], ["a"]),
        ("./src/", ["src"], ["src/a"]),
    ],
)
def test_a_pattern_fits(pattern: str, fits: list[str], others: list[str]) -> None:
    found = globs.compiled([pattern])
    assert found is not None
    assert [path for path in [*fits, *others] if found.fullmatch(path)] == fits


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 400 + "b", "a" * 4000),
        ("**/a/" * 190 + "b", "a/" * 2000 + "c"),
        ("{a,b}" * 6, "a" * 5),
    ],
)
def test_no_pattern_takes_for_ever(pattern: str, path: str) -> None:
    """With an expression that goes back and forth, these would not end in this universe."""
    found = globs.compiled([pattern])
    assert found is not None and not found.fullmatch(path)


def test_a_pattern_that_is_none_is_refused(plain: Files, root: Path) -> None:
    for pattern, why in (
        ("/etc/*", "relative to `path`"),
        ("x" * 2000, "at most 1,000"),
        ("{a,b}" * 7, "more than 64"),
    ):
        assert why in plain.refused("search_files", path=str(root), pattern=pattern)
    too_many = plain.refused("directory_tree", path=str(root), excludePatterns=["x"] * 101)
    assert "at most 100" in too_many


def expected(directory: Path) -> list[dict[str, Any]]:
    tree = []
    for path in sorted(directory.iterdir(), key=lambda one: one.name):
        if path.is_dir() and not path.is_symlink():
            tree.append({"name": path.name, "type": "directory", "children": expected(path)})
        else:
            tree.append({"name": path.name, "type": "file"})
    return tree


def test_a_tree_is_what_is_there(files: Files, root: Path) -> None:
    """The same JSON as the TypeScript server's, with every name as it is."""
    assert files.call("directory_tree", path=str(root)) == "[]"
    for name in ODD:
        (root / "sub" / "deeper" / name).mkdir(parents=True)
        (root / name).write_text("")
    (root / "sub" / "empty").mkdir()
    (root / "sub" / "z").write_text("")
    (root / "link").symlink_to("sub")
    told = files.call("directory_tree", path=str(root))
    assert json.loads(told) == expected(root)
    assert told == json.dumps(json.loads(told), indent=2, ensure_ascii=False)
    left = files.call("directory_tree", path=str(root), excludePatterns=["deeper", "*"])
    assert json.loads(left) == []
    left = files.call("directory_tree", path=str(root), excludePatterns=["deeper"])
    assert "empty" in left and "deeper" not in left


def test_a_list_has_a_name_a_line(files: Files, root: Path) -> None:
    """A name cannot look like two."""
    for name in ODD:
        (root / name).write_text("x" * 2048)
    (root / "sub").mkdir()
    os.mkfifo(root / "pipe")
    lines = files.call("list_directory", path=str(root)).split("\n")
    assert len(lines) == len(ODD) + 2
    assert {"[FILE] new\\nline", "[DIR] sub", "[FILE] umläut"} <= set(lines)
    told = files.call("list_directory_with_sizes", path=str(root), sortBy="size")
    assert told.split("\n")[-3:] == ["", "Total: 9 files, 1 directories", "Combined size: 16.00 KB"]
    assert f"[FILE] {'umläut':<30}    2.00 KB" in told
    assert "'name' or 'size'" in files.refused(
        "list_directory_with_sizes", path=str(root), sortBy="x"
    )


def test_what_is_too_much_is_cut_and_that_is_said(
    plain: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "ENTRIES_SHOWN_MAX", 100)
    monkeypatch.setattr(listing, "TREE_ENTRIES_MAX", 100)
    for number in range(250):
        (root / f"{number:03}").write_text("x")
    names: list[str] = []
    offset: int | None = 0
    while offset is not None:
        said = plain.answer("list_directory", path=str(root), offset=offset).structured
        names += said["content"].split("\n")
        offset = said.get("next_offset")
    assert names == [f"[FILE] {number:03}" for number in range(250)]
    said = plain.answer("directory_tree", path=str(root))
    assert len(json.loads(said.content[0]["text"])) == 100
    assert said.structured["truncated"] and "only the first" in said.content[1]["text"]
    said = plain.answer("search_files", path=str(root), pattern="*", limit=7)
    assert len(said.content[0]["text"].split("\n")) == 7 and said.structured["truncated"]
    said = plain.answer("grep", path=str(root), pattern="x", limit=7)
    assert len(said.content[0]["text"].split("\n")) == 7 and said.structured["truncated"]
    monkeypatch.setattr(walking, "SECONDS_MAX", -1.0)
    monkeypatch.setattr(walking, "_LOOK_EVERY", 1)
    said = plain.answer("search_files", path=str(root), pattern="*")
    assert "not everything was looked at" in said.content[1]["text"]


def made_deep(root: Path, name: str, levels: int) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_paths_may_be_longer_than_the_kernel_takes(files: Files, root: Path) -> None:
    """Step by step all of it is found; by one call what has a path, and the rest is told."""
    made_deep(root, "x" * 250, 20)
    found = files.answer("search_files", path=str(root), pattern="**")
    count = len(found.content[0]["text"].split("\n"))
    if files.server._roots.openat2:
        assert count == 17 and "deeper than a path may be long" in found.content[1]["text"]
    else:
        assert count == 20


def test_the_deep_ends_no_stack(plain: Files, root: Path) -> None:
    """Nor does it take a descriptor for each level; what is left out is told."""
    made_deep(root, "x", 400)
    tree = plain.answer("directory_tree", path=str(root))
    assert tree.content[0]["text"].count('"x"') == 100
    assert "below 100 levels" in tree.content[1]["text"]
    assert plain.call("search_files", path=str(root), pattern="**/x").count("\n") == 399
    assert "not searched" in plain.answer("grep", path=str(root), pattern="x").content[1]["text"]


def test_files_are_found_by_their_path(files: Files, root: Path) -> None:
    for name in ("a.py", "src/b.py", "src/sub/c.py", "node_modules/d.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")

    def found(pattern: str, *exclude: str, path: Path = root) -> list[str]:
        told = files.call(
            "search_files", path=str(path), pattern=pattern, excludePatterns=list(exclude)
        )
        return [line.removeprefix(f"{root}/") for line in told.split("\n")]

    assert found("*.py") == ["a.py"]
    assert found("**/*.py", "node_modules") == ["a.py", "src/b.py", "src/sub/c.py"]
    assert found("**/*.py", "**/sub/**", "n*") == ["a.py", "src/b.py"]
    assert found("**", path=root / "src") == ["src/b.py", "src/sub", "src/sub/c.py"]
    assert found("*.rs") == ["No matches found"]


def test_lines_are_found_by_an_expression(plain: Files, root: Path) -> None:
    """With the path that the next call can use; binary files are left out."""
    (root / "src").mkdir()
    (root / "src" / "a.py").write_text("one\ntwo\nthree\nfour\n")
    (root / "b.txt").write_text("TWO\n")
    (root / "bin").write_bytes(b"two\0")
    there = f"{root}/src/a.py"
    assert plain.call("grep", pattern="t.o") == f"{there}:2:two"
    assert plain.call("grep", pattern="t.o", path=there) == f"{there}:2:two"
    both = plain.call("grep", pattern="two", ignoreCase=True, path=str(root))
    assert both == f"{root}/b.txt:1:TWO\n{there}:2:two"
    around = plain.call("grep", pattern="two", context=1, glob="*.py")
    assert around == f"{there}-1-one\n{there}:2:two\n{there}-3-three"
    none = plain.call("grep", pattern="two", excludePatterns=["src"])
    assert none == "No matches found"
    assert "unterminated" in plain.refused("grep", pattern="(")


def test_an_expression_that_takes_for_ever_is_ended(
    plain: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "GREP_SECONDS_MAX", 0.3)
    (root / "f").write_text("a" * 60 + "\n")
    said = plain.answer("grep", pattern="(a+)+b")
    assert "can take for ever" in said.content[1]["text"]


@pytest.mark.long
def test_a_directory_of_a_hundred_thousand_is_listed(files: Files, root: Path) -> None:
    for number in range(100_000):
        os.mknod(root / f"{number:06}")
    said = files.answer("list_directory", path=str(root)).structured
    assert said["content"].count("\n") == listing.ENTRIES_SHOWN_MAX - 1
    assert "100,000 entries" in said["note"]
    assert files.call("search_files", path=str(root), pattern="09999*").count("\n") == 9


@pytest.mark.long
def test_a_search_ends_though_nobody_waits_for_it(root: Path) -> None:
    """Its server was killed, in the middle of an expression that takes for ever."""
    (root / "f").write_text("a" * 60 + "\n")
    request = {
        "mode": "grep", "regex": "(a+)+b", "files": "", "exclude": "", "name": "", "limit": 1,
        "context": 0, "ignore_case": False, "directories": False, "seconds": 1,
    }  # fmt: skip
    directory = os.open(root, os.O_RDONLY)
    command = [sys.executable, "-I", "-S", searching._SCAN, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(directory,)) as process:
        process.communicate(json.dumps(request).encode() + b"\n", timeout=30)
    os.close(directory)
    assert process.returncode == -signal.SIGALRM
