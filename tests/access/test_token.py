"""The local token: a file for its owner's eyes."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from agent_runtime.access import token
from agent_runtime.access.key_texts import LOCAL_ID, id_in
from agent_runtime.access.keys import digest
from agent_runtime.errors import ConfigError


def test_it_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    directory = str(tmp_path / "state")
    made = token.ensure(directory)
    assert id_in(made) == LOCAL_ID and token.ensure(directory) == token.read(directory) == made
    about = os.stat(token.path_in(directory))
    assert stat.S_IMODE(about.st_mode) == 0o600
    assert os.listdir(directory) == ["token"]


def test_of_many_that_make_it_at_once_all_get_the_same(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(token.ensure(str(tmp_path)))) for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 8 and set(found) == {token.read(str(tmp_path))}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o602, 0o660])
def test_one_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    token.ensure(str(tmp_path))
    os.chmod(tmp_path / "token", mode)
    with pytest.raises(ConfigError, match=f"{mode:04o}"):
        token.ensure(str(tmp_path))


def test_a_link_a_pipe_and_another_text_are_refused(tmp_path: Path) -> None:
    """Whoever could put a link there could make it known."""
    secret = token.ensure(str(tmp_path / "a"))
    for make in (
        lambda path: path.symlink_to(tmp_path / "a" / "token"),
        lambda path: os.mkfifo(path, 0o600),
        lambda path: path.mkdir(mode=0o700),
        lambda path: path.touch(mode=0o600),
    ):
        path = tmp_path / "b"
        path.mkdir()
        make(path / "token")
        with pytest.raises(ConfigError) as caught:
            token.ensure(str(path))
        assert secret not in str(caught.value)
        path.rename(tmp_path / f"b{len(os.listdir(tmp_path))}")


def test_a_running_server_sees_another_token_at_once(tmp_path: Path) -> None:
    directory = str(tmp_path)
    file = token.TokenFile(directory)
    first = token.read(directory)
    assert first and file.hash() == digest(first)
    second = token.rotate(directory)
    assert second != first and file.hash() == digest(second)
    os.unlink(tmp_path / "token")
    assert file.hash() == digest(token.read(directory) or "") != digest(second)
    os.chmod(tmp_path / "token", 0o644)
    assert file.hash() == ""
    os.chmod(tmp_path / "token", 0o600)
    assert file.hash() == digest(token.read(directory) or "")
