"""Changes: wholly or not at all, one after the other, and nothing is lost that was not meant."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent_runtime_mcp.filesystem import FilesystemServer, kernel, locks
from agent_runtime_mcp.filesystem.places import Place
from agent_runtime_mcp.filesystem.roots import Roots
from agent_runtime_mcp.filesystem.staging import Changed, Staged, existing
from tests.mcp.filesystem.conftest import Files


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def edit(old: str, new: str) -> dict[str, str]:
    return {"oldText": old, "newText": new}


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        (b"one\r\ntwo\r\nthree\r\n", "two\nthree", "2\n3", b"one\r\n2\r\n3\r\n"),
        (b"one\ntwo\r\nthree\n", "two\nthree", "2\n3", b"one\n2\r\n3\n"),
        (b"one\ntwo\r\nthree\r\n", "two\nthree", "2\n3", b"one\n2\r\n3\r\n"),
        (b"\xef\xbb\xbfone\n", "one", "1", b"\xef\xbb\xbf1\n"),
        (b"caf\xe9 one\n", "one", "1", b"caf\xe9 1\n"),
        ("one\n".encode("utf-16"), "one", "ö", "ö\n".encode("utf-16")),
        (b"one", "one", "", b""),
    ],
)
def test_an_edit_changes_nothing_else(
    plain: Files, root: Path, before: bytes, old: str, new: str, after: bytes
) -> None:
    """Line ends, marks, bytes of another encoding, mode."""
    (root / "f").write_bytes(before)
    (root / "f").chmod(0o751)
    plain.call("edit_file", path=f"{root}/f", edits=[edit(old, new)])
    assert (root / "f").read_bytes() == after
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o751


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        ([edit("x = 1", "y")], "matches 2 times (lines 1, 3)"),
        ([edit("y = 2", "a"), edit("none", "b")], "edit 2 of 2"),
        ([edit("y  =  2", "a")], "Line 2 matches but for white space"),
        ([edit("", "a")], "oldText is empty"),
        ([edit("y = 2", "\ud800")], "half a character"),
        ([{"oldText": "y"}], "must have oldText and newText"),
        ([], "1 to 1,000"),
        ("y", "1 to 1,000"),
    ],
)
def test_an_edit_that_is_not_clear_changes_nothing(
    plain: Files, root: Path, edits: object, why: str
) -> None:
    (root / "f").write_text("x = 1\ny = 2\nx = 1\n")
    assert why in plain.refused("edit_file", path=f"{root}/f", edits=edits)
    assert (root / "f").read_text() == "x = 1\ny = 2\nx = 1\n"
    assert [p.name for p in root.iterdir()] == ["f"]


def test_a_dry_run_shows_the_diff_and_writes_nothing(plain: Files, root: Path) -> None:
    """In the form of the TypeScript server."""
    (root / "f").write_text("".join(f"{letter}\n" for letter in "abcdefgh"))
    told = plain.call("edit_file", path=f"{root}/f", edits=[edit("d", "D")], dryRun=True)
    assert told == (
        f"```diff\nIndex: {root}/f\n{'=' * 67}\n--- {root}/f\toriginal\n+++ {root}/f\tmodified\n"
        "@@ -1,7 +1,7 @@\n a\n b\n c\n-d\n+D\n e\n f\n g\n```\n\n"
    )
    assert (root / "f").read_text().startswith("a\nb\nc\nd\n")
    assert plain.call("edit_file", path=f"{root}/f", edits=[edit("d", "D")]) == told
    (root / "f").write_text("```\n")
    told = plain.call("edit_file", path=f"{root}/f", edits=[edit("```", "````")])
    assert told.startswith("`````diff")


def test_a_hash_guards_what_was_read(plain: Files, root: Path) -> None:
    path = f"{root}/new/f"
    said = plain.answer("write_file", path=path, content="one", expected_hash="")
    assert said.structured["sha256"] == sha(b"one")
    assert "already exists" in plain.refused("write_file", path=path, content="x", expected_hash="")
    other = sha(b"other")
    for name, more in (
        ("write_file", {"content": "x"}),
        ("edit_file", {"edits": [edit("one", "x")]}),
        ("delete_file", {}),
    ):
        why = plain.refused(name, path=path, expected_hash=other, **more)
        assert "has changed since it was read" in why and sha(b"one") in why
        assert "64 hexadecimal" in plain.refused(name, path=path, expected_hash="x", **more)
    plain.call("write_file", path=path, content="two", expected_hash=sha(b"one").upper())
    plain.call("edit_file", path=path, edits=[edit("two", "3")], expected_hash=sha(b"two"))
    plain.call("delete_file", path=path, expected_hash=sha(b"3"))
    assert "does not exist" in plain.refused(
        "write_file", path=path, content="x", expected_hash=other
    )
    assert not os.path.exists(path)


def test_a_hard_link_outside_keeps_its_content(plain: Files, root: Path, outside: Path) -> None:
    os.link(outside / "secret", root / "f")
    plain.call("edit_file", path=f"{root}/f", edits=[edit("SECRET", "x")])
    plain.call("write_file", path=f"{root}/f", content="y")
    assert (outside / "secret").read_text() == "SECRET"
    assert (root / "f").read_text() == "y"


@pytest.mark.parametrize("servers", [1, 2], ids=["one server", "two servers"])
def test_edits_at_the_same_time_are_all_made(root: Path, servers: int) -> None:
    """Two servers on one directory are an editor's and a chat program's."""
    (root / "f").write_text("".join(f"line{number:03}=0\n" for number in range(40)))
    sides = [Files(FilesystemServer([str(root)])) for _ in range(servers)]

    def change(number: int) -> None:
        one = edit(f"line{number:03}=0", f"line{number:03}=1")
        sides[number % servers].call("edit_file", path=f"{root}/f", edits=[one])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(40)))
    assert (root / "f").read_text().count("=1") == 40
    assert [p.name for p in root.iterdir()] == ["f"]


def test_what_another_program_wrote_meanwhile_is_not_lost(root: Path) -> None:
    """It takes no lock: it is noticed just before the new content is put in place."""
    (root / "f").write_text("one")
    with Place(Roots([str(root)]), f"{root}/f") as place:
        old = existing(place)
        (root / "f").write_text("two")
        with Staged(place, old) as staged, pytest.raises(Changed):
            staged.replace_if(old)
    with Place(Roots([str(root)]), f"{root}/new") as place:
        (root / "new").write_text("two")
        with Staged(place, None) as staged, pytest.raises(Changed):
            staged.replace_if(None)
    assert {p.name: p.read_text() for p in root.iterdir()} == {"f": "two", "new": "two"}


def test_who_waits_too_long_for_a_lock_is_told(
    plain: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(locks, "WAIT_SECONDS_MAX", 0.02)
    (root / "f").write_text("one")
    held = os.open(root, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        why = plain.refused("write_file", path=f"{root}/f", content="two")
        assert "another process has held" in why
    finally:
        os.close(held)
    plain.call("write_file", path=f"{root}/f", content="two")


@pytest.mark.parametrize("exclusive", [True, False], ids=["renameat2", "without"])
def test_nothing_is_moved_or_copied_over(
    plain: Files, root: Path, exclusive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, directories (also empty ones), links that lead nowhere; whatever the kernel has."""
    if not exclusive:
        monkeypatch.setattr(kernel, "_C", None)
    (root / "d" / "e").mkdir(parents=True)
    (root / "f").write_text("f")
    (root / "g").write_text("g")
    (root / "link").symlink_to("nowhere")
    (root / "empty").mkdir()
    for source, destination in (("f", "g"), ("f", "link"), ("f", "empty"), ("d", "empty")):
        for name in ("move_file", "copy_file")[: 1 if source == "d" else 2]:
            why = plain.refused(
                name, source=f"{root}/{source}", destination=f"{root}/{destination}"
            )
            assert "Destination already exists" in why
    plain.call("move_file", source=f"{root}/f", destination=f"{root}/x/y/f")
    plain.call("move_file", source=f"{root}/d", destination=f"{root}/x/d")
    plain.call("move_file", source=f"{root}/link", destination=f"{root}/x/link")
    assert (root / "x/y/f").read_text() == "f" and (root / "x/d/e").is_dir()
    assert os.readlink(root / "x/link") == "nowhere"
    (root / "g").chmod(0o755)
    plain.call("copy_file", source=f"{root}/g", destination=f"{root}/x/g")
    assert (root / "x/g").read_text() == "g" and os.access(root / "x/g", os.X_OK)
    inside = plain.refused("move_file", source=f"{root}/x", destination=f"{root}/x/y/z")
    assert "lies inside of" in inside


def test_moves_to_one_name_at_the_same_time_lose_no_file(plain: Files, root: Path) -> None:
    for number in range(16):
        (root / f"{number}").write_text(f"{number}")
    start = threading.Barrier(8)

    def move(number: int) -> bool:
        if number < 8:
            start.wait()
        return not plain.answer(
            "move_file", source=f"{root}/{number}", destination=f"{root}/one"
        ).is_error

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(move, range(16))) == 1
    assert len(list(root.iterdir())) == 16


def test_what_is_deleted_is_one_name(plain: Files, root: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "f").write_text("f")
    (root / "link").symlink_to("d")
    plain.call("delete_file", path=f"{root}/link")
    assert "something in it" in plain.refused("delete_file", path=f"{root}/d")
    plain.call("delete_file", path=f"{root}/d/f")
    plain.call("delete_file", path=f"{root}/d")
    assert "ENOENT" in plain.refused("delete_file", path=f"{root}/d")
    assert not list(root.iterdir())


def test_directories_are_made_where_nothing_else_is(plain: Files, root: Path) -> None:
    for _ in range(2):
        plain.call("create_directory", path=f"{root}/a/b/c")
    (root / "f").write_text("")
    assert "EEXIST" in plain.refused("create_directory", path=f"{root}/f")
    assert "not a directory" in plain.refused("create_directory", path=f"{root}/f/g")
    assert "is a directory" in plain.refused("write_file", path=f"{root}/a", content="")
    assert (root / "a/b/c").is_dir()
