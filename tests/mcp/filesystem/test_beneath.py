"""Nothing leads out of the roots: by the kernel's `openat2`, and step by step where it has none."""

from __future__ import annotations

import os
import random
import shutil
import socket
import threading
import unicodedata
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from agent_runtime_mcp.filesystem import FilesystemServer, kernel
from tests.mcp.filesystem.conftest import Files


def ways_out(root: Path, outside: Path) -> list[str]:
    """Paths to the secret, or to what would be a new file beside it."""
    (root / "sub").mkdir()
    (root / "file_link").symlink_to(outside / "secret")
    (root / "directory_link").symlink_to(outside)
    (root / "relative_link").symlink_to("../outside")
    (root / "sub" / "chain").symlink_to("../directory_link")
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to(outside / "new")
    return [
        *(f"{outside}/secret", f"{root}/../outside/secret", "../outside/secret"),
        *(f"{root}2/secret", f"{root}/sub/../../outside/secret", "/etc/passwd", "/"),
        *(f"{root}/{name}/secret" for name in ("directory_link", "relative_link", "sub/chain")),
        *(f"{root}/{name}" for name in ("file_link", "loop", "dangling", "directory_link/new")),
    ]


def test_no_tool_leaves_the_roots(files: Files, root: Path, outside: Path) -> None:
    """Reading, writing, looking, moving in, moving out: all of it by every way we know."""
    (root / "mine").write_text("mine")
    for path in ways_out(root, outside):
        link = path.removeprefix(f"{root}/") in ("file_link", "loop", "dangling")
        reading = ["read_text_file", "read_media_file", "get_file_info", "list_directory"]
        for name in [*reading, "directory_tree", "list_directory_with_sizes"]:
            assert "SECRET" not in files.refused(name, path=path)
        files.refused("write_file", path=path, content="X")
        files.refused("edit_file", path=path, edits=[{"oldText": "SECRET", "newText": "X"}])
        files.refused("search_files", path=path, pattern="**")
        files.refused("grep", path=path, pattern="SECRET")
        files.refused("copy_file", source=path, destination=f"{root}/copy")
        files.refused("copy_file", source=f"{root}/mine", destination=path)
        files.refused("move_file", source=f"{root}/mine", destination=path)
        if not link:  # of a link, the link itself is meant
            files.refused("create_directory", path=path)
            files.refused("move_file", source=path, destination=f"{root}/moved")
            files.refused("delete_file", path=path)
        assert "SECRET" not in files.call("read_multiple_files", paths=[path])
    assert [p.name for p in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "SECRET"
    assert (root / "mine").read_text() == "mine"


def test_links_are_not_gone_through_by_searches(files: Files, root: Path, outside: Path) -> None:
    ways_out(root, outside)
    assert "SECRET" not in files.call("grep", path=str(root), pattern=".")
    assert "secret" not in files.call("search_files", path=str(root), pattern="**")
    assert "secret" not in files.call("directory_tree", path=str(root))
    assert "6 B" not in files.call("list_directory_with_sizes", path=str(root))


def test_links_that_stay_inside_are_followed(files: Files, root: Path) -> None:
    """Relative and absolute ones, also through others; a file is written where they lead."""
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "f").write_text("one")
    (root / "absolute").symlink_to(root / "a")
    (root / "relative").symlink_to("absolute/b")
    (root / "last").symlink_to("relative/f")
    for path in ("absolute/b/f", "relative/f", "last"):
        assert files.call("read_text_file", path=str(root / path)) == "one"
    files.call("write_file", path=str(root / "last"), content="two")
    files.call("edit_file", path=f"{root}/last", edits=[{"oldText": "two", "newText": "three"}])
    assert (root / "a" / "b" / "f").read_text() == "three"
    assert (root / "last").is_symlink()
    files.call("delete_file", path=str(root / "last"))
    assert (root / "a" / "b" / "f").exists() and not (root / "last").is_symlink()


@pytest.mark.parametrize("openat2", [True, False])
def test_a_link_may_lead_from_one_root_to_another(tmp_path: Path, openat2: bool) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "two" / "f").write_text("text")
    (tmp_path / "one" / "link").symlink_to(tmp_path / "two")
    roots = [str(tmp_path / "one"), str(tmp_path / "two")]
    files = Files(FilesystemServer(roots, openat2=openat2 and kernel.has_openat2()))
    assert files.call("read_text_file", path=f"{tmp_path}/one/link/f") == "text"
    assert files.call("read_text_file", path=f"/{tmp_path}//two/./f") == "text"
    assert files.call("list_allowed_directories").split("\n")[1:] == roots
    alone = Files(FilesystemServer(roots[:1], openat2=openat2 and kernel.has_openat2()))
    assert "outside" in alone.refused("read_text_file", path=f"{tmp_path}/one/link/f")


@pytest.mark.parametrize("seed", range(8))
def test_every_path_leads_where_it_leads_or_nowhere(tmp_path: Path, seed: int) -> None:
    """Random links, held against `realpath`: what is read lies below a root, both ways alike."""
    chance = random.Random(seed)
    inner, outer = ["one", "one/a", "one/a/b", "two", "two/c"], ["out", "out/d"]
    folders = [tmp_path / name for name in (*inner, *outer)]
    for folder in folders:
        folder.mkdir()
        (folder / "f").write_text(str(folder))
    names = [f"link{number}" for number in range(8)]
    parts = ["..", ".", "a", "b", "c", "f", *names]
    for name in names:
        steps = "/".join(chance.choices([*parts, "one", "two", "out"], k=chance.randint(1, 4)))
        target = chance.choice([steps, f"{chance.choice(folders)}/{chance.choice(['', 'f'])}"])
        (chance.choice(folders) / name).symlink_to(target)
    roots = [str(tmp_path / "one"), str(tmp_path / "two")]
    ways = [Files(FilesystemServer(roots, openat2=openat2)) for openat2 in {None, False}]
    paths = [f"{root}/f" for root in roots]
    for _ in range(60):
        below = "/".join(chance.choices(parts, k=chance.randint(1, 4)))
        paths.append(os.path.normpath(f"{chance.choice(folders)}/{below}"))
    for path in paths:
        said = [files.answer("read_text_file", path=path) for files in ways]
        texts = {None if one.is_error else one.content[0]["text"] for one in said}
        assert len(texts) == 1, path
        (text,) = texts
        if text is not None:
            real = os.path.realpath(path)
            assert any(real.startswith(f"{root}/") for root in roots), path
            assert text == os.path.dirname(real)
        assert text is not None or path not in paths[:2]


def test_a_swapped_directory_never_leads_out(files: Files, root: Path, outside: Path) -> None:
    """A directory becomes a link to the outside and back, as fast as it can, while it is used."""
    flip, real, stop = root / "flip", root / "flip.real", threading.Event()
    flip.mkdir()
    (flip / "secret").write_text("inside")

    def swap() -> None:
        while not stop.is_set():
            # The server may make the directory anew where it is missing: then that is used.
            with suppress(OSError):
                flip.rename(real)
                flip.symlink_to(outside)
                flip.unlink()
                real.rename(flip)
            with suppress(OSError):
                if flip.is_symlink():
                    flip.unlink()
            shutil.rmtree(real, ignore_errors=True)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        seen = set()
        for number in range(300):
            said = files.answer("read_text_file", path=f"{flip}/secret")
            seen.add(said.content[0]["text"] if not said.is_error else "refused")
            files.answer("write_file", path=f"{flip}/new{number % 5}", content="X")
            files.answer("write_file", path=f"{flip}/secret", content="inside")
            files.answer("move_file", source=f"{flip}/new0", destination=f"{flip}/moved")
            files.answer("delete_file", path=f"{flip}/secret", expected_hash="0" * 64)
    finally:
        stop.set()
        swapping.join()
    assert "SECRET" not in seen and seen & {"inside", "refused"}
    assert [p.name for p in outside.iterdir()] == ["secret"]


def test_a_new_directory_in_the_place_of_a_root_is_used(files: Files, root: Path) -> None:
    """A repository that is cloned anew; a link in its place is none."""
    (root / "f").write_text("old")
    assert files.call("read_text_file", path=str(root / "f")) == "old"
    root.rename(root.with_name("gone"))
    root.mkdir()
    (root / "f").write_text("new")

    async def noticed() -> None:
        with anyio.fail_after(5):
            while files.call("read_text_file", path=str(root / "f")) != "new":
                await anyio.sleep(0.005)

    anyio.run(noticed)
    (root / "f").unlink()
    root.rmdir()
    root.symlink_to(root.with_name("gone"))

    async def refused() -> None:
        with anyio.fail_after(5):
            while not files.answer("list_directory", path=str(root)).is_error:
                await anyio.sleep(0.005)

    anyio.run(refused)


def test_pipes_and_sockets_are_named_and_not_touched(files: Files, root: Path) -> None:
    """Opening a pipe would wake who waits at its other end, or never come back."""
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
    for name, what in (("pipe", "named pipe"), ("socket", "socket")):
        path = str(root / name)
        assert what in files.refused("read_text_file", path=path)
        assert what in files.refused("read_media_file", path=path)
        assert what in files.refused("write_file", path=path, content="X")
        assert what in files.refused("copy_file", source=path, destination=f"{path}2")
        assert what in files.refused("grep", path=path, pattern="x")
        assert what in files.call("get_file_info", path=path)


def test_a_path_that_is_none_is_refused(files: Files, root: Path) -> None:
    """A NUL byte would end the path early for the kernel."""
    (root / "f").write_text("x")
    assert "NUL" in files.refused("read_text_file", path=f"{root}/f\0.txt")
    assert "half a character" in files.refused("read_text_file", path=f"{root}/\ud800")
    assert "half a character" in files.refused("write_file", path=f"{root}/\ud800/x", content="")
    assert "too long" in files.refused("read_text_file", path=f"{root}/{'x' * 300}")
    assert "must be a string" in files.refused("read_text_file", path=3)
    assert "must be a string" in files.refused("read_text_file")
    assert "not a directory" in files.refused("read_text_file", path=f"{root}/f/g")
    assert "no such file" in files.refused("read_text_file", path=f"{root}/g")
    assert "is a directory" in files.refused("read_text_file", path=str(root))
    assert "allowed directory itself" in files.refused("delete_file", path=f"{root}/")


def test_a_name_in_another_unicode_form_is_found(files: Files, root: Path) -> None:
    """What a Mac wrote as two characters is asked for as one."""
    name = "r\u00e9sum\u00e9"
    (root / unicodedata.normalize("NFD", name)).write_text("text")
    assert files.call("read_text_file", path=str(root / name)) == "text"
    files.call("write_file", path=str(root / name), content="new")
    assert len(list(root.iterdir())) == 1


def test_without_roots_everything_is_refused() -> None:
    assert "no directory is allowed" in Files(FilesystemServer()).refused("grep", pattern="x")


def test_a_read_only_server_has_no_tool_that_writes(root: Path) -> None:
    server = FilesystemServer([str(root)], read_only=True)
    assert not any(not tool.annotations["readOnlyHint"] for tool in server.fixed_tools())
    hidden = FilesystemServer([str(root)], read_only=True)._by_name["write_file"]
    files = Files(server)
    files.tools["write_file"] = hidden
    assert "read-only" in files.refused("write_file", path=f"{root}/f", content="x")
    assert not list(root.iterdir())
