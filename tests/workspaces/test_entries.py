"""What a setup left is kept, whatever traps lie in it; nothing outside is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_runtime.errors import SetupFailed, WorkspaceError
from agent_runtime.redaction import Redactor
from agent_runtime.workspaces.environment.entries import Entries, Kept, keep, without_secrets
from agent_runtime.workspaces.files import copy_into

CANARY = "c4nary-Value/0x1f"
TRACKED = ["pkg/a.py", "top.py", "odd\\xff"]


@pytest.fixture
def making(tmp_path: Path) -> Path:
    """An entry in the making, with the repository's files."""
    made = Path(Entries(str(tmp_path / "environments")).begin("k"))
    (made / "checkout" / "pkg").mkdir(parents=True)
    for name in ("pkg/a.py", "top.py"):
        (made / "checkout" / name).write_text("x", encoding="utf-8")
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host with what nobody may touch."""
    where = tmp_path / "outside"
    for name in ("registry", "pip", "share/uv"):
        (where / name).mkdir(parents=True)
        (where / name / "file").write_text("theirs", encoding="utf-8")
    (where / "key").write_text("theirs", encoding="utf-8")
    (where / "key").chmod(0o600)
    os.mkfifo(where / "pipe")
    return where


def facts(root: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mode) for path in root.rglob("*"))


def sorted_out(making: Path) -> tuple[Kept, list[str]]:
    return keep(str(making), str(making / "checkout"), TRACKED, "tree")


@pytest.mark.parametrize(
    "links",
    [
        {"home/.cargo/registry": ""},
        {"home/.cargo": ""},
        {"home/.cache": ""},
        {"home/.local": ""},
        {"home/go/pkg/mod": "", "home/node_modules": "", "home/.venv": ""},
        {"checkout/node_modules": "", "checkout/build": ""},
    ],
)
def test_no_link_of_a_setup_is_followed_out_of_its_entry(
    making: Path, outside: Path, links: dict[str, str]
) -> None:
    before = facts(outside)
    for path in links:
        (making / path).parent.mkdir(parents=True, exist_ok=True)
        (making / path).symlink_to(outside)
    kept, _ = sorted_out(making)
    assert kept.mounted == []
    assert facts(outside) == before


def test_a_copy_does_not_follow_a_link_of_the_work(tmp_path: Path, outside: Path) -> None:
    """The work may put a link where a directory was."""
    (tmp_path / "source").write_text("ours", encoding="utf-8")
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pkg").symlink_to(outside)
    before = facts(outside)
    with pytest.raises(WorkspaceError, match="'pkg' in the workspace is not a directory"):
        copy_into(str(tmp_path / "source"), str(tmp_path / "checkout"), "pkg/key")
    assert facts(outside) == before
    copy_into(str(tmp_path / "source"), str(tmp_path / "checkout"), "other/key")
    assert (tmp_path / "checkout" / "other" / "key").read_text(encoding="utf-8") == "ours"


def test_what_takes_the_place_of_the_repositorys_own_files_is_not_kept(making: Path) -> None:
    work = making / "checkout"
    (work / "pkg").rename(work / "real")
    (work / "pkg").symlink_to("real")
    (work / "top.py").unlink()
    (work / "top.py").mkdir()
    (work / "top.py" / "x").touch()
    kept, _ = sorted_out(making)
    assert kept.copied == ["real"]


def test_odd_files_are_kept_dropped_or_named_and_break_nothing(making: Path) -> None:
    work = making / "checkout"
    os.mkfifo(work / "pipe")
    (work / "kept.json").touch()
    (work / "new\nline").touch()
    for name in (b"odd\xff", b"own\xff"):  # the first is the repository's own
        (Path(os.fsdecode(os.fsencode(work) + b"/" + name))).touch()
    (work / "closed" / "inner").mkdir(parents=True)
    (work / "closed" / "inner" / "file").touch(0o000)
    (work / "closed" / "inner").chmod(0o000)
    (work / "closed").chmod(0o555)
    (making / "home" / "a").mkdir(0o000)
    kept, unnamed = sorted_out(making)
    assert kept.copied == ["closed", "kept.json", "new\nline"]
    assert unnamed == ["own\\xff"]
    assert kept.home
    copy_into(str(making / "work" / "closed"), str(making), "copy")


def test_directories_too_deep_to_be_kept_are_a_fault_of_the_setup(making: Path) -> None:
    at = os.open(making / "checkout", os.O_RDONLY)
    for _ in range(300):
        os.mkdir("deep", dir_fd=at)
        below = os.open("deep", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    with pytest.raises(SetupFailed, match="nested more than 200 deep"):
        sorted_out(making)


def test_whatever_has_a_secret_in_it_or_in_its_name_is_not_kept(making: Path) -> None:
    """At the top of the workspace too, where others stand on its being kept."""
    work = making / "checkout"
    name = "c4nary-Value"
    (work / ".npmrc").write_text(f"//registry/:_authToken={name}", encoding="utf-8")
    (work / f"build-{name}").mkdir()
    (work / f"build-{name}" / "fine").touch()
    (work / "link").symlink_to(f"https://{name}@host")
    (work / "fine").touch()
    (making / "home" / f"empty-{name}").mkdir()
    kept, _ = sorted_out(making)
    kept, removed = without_secrets(str(making), kept, Redactor({"TOKEN": name}))
    assert kept.copied == ["fine"]
    assert removed == [
        "home/empty-[secret TOKEN]", "work/.npmrc", "work/build-[secret TOKEN]", "work/link",
    ]  # fmt: skip


def test_what_a_killed_setup_left_goes_with_the_next_of_the_same_entry(tmp_path: Path) -> None:
    entries = Entries(str(tmp_path))
    killed, other = entries.begin("k"), entries.begin("other")
    begun = entries.begin("k")
    assert [os.path.exists(path) for path in (killed, other, begun)] == [False, True, True]
