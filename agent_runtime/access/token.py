"""The local token: a file `token` in the state directory, for whoever may read that.

Made at the first `serve`, 0600. Removing the file makes another token; the command `agent-runtime
keys rotate-token` does the same without a moment in which there is none. A running server notices.
"""

from __future__ import annotations

import logging
import os
import stat
from typing import Final

from agent_runtime.access import key_texts
from agent_runtime.errors import ConfigError

NAME: Final = "token"

log = logging.getLogger(__name__)


def path_in(state_dir: str) -> str:
    return os.path.join(state_dir, NAME)


def read(state_dir: str) -> str | None:
    """The token; None if there is none.

    Raises:
        ConfigError: others than its owner may read or write it, or it is no token.
    """
    path = path_in(state_dir)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read the token {path!r}: {error.strerror}") from None
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_mode & 0o077:
            raise ConfigError(
                f"the token {path!r} must be a file that nobody but its owner may read"
                f" (mode {stat.S_IMODE(about.st_mode):04o}): remove it, for others may know it;"
                " `agent-runtime serve` makes another"
            )
        if about.st_uid not in (os.geteuid(), 0):
            raise ConfigError(
                f"the token {path!r} belongs to user {about.st_uid}, not to you: remove it"
            )
        token = os.read(fd, 200).decode("utf-8", "replace").strip()
    finally:
        os.close(fd)
    if key_texts.id_in(token) != key_texts.LOCAL_ID:
        raise ConfigError(
            f"{path!r} holds no token: remove it, and `agent-runtime serve` makes another"
        )
    return token


def ensure(state_dir: str) -> str:
    """The token, made if there is none. Of two that make it at once, one wins for both.

    Raises:
        ConfigError: as `read`, or it cannot be written.
    """
    return read(state_dir) or _make(state_dir, replace=False)


def rotate(state_dir: str) -> str:
    """Another token in place of the one there is. Raises `ConfigError`."""
    return _make(state_dir, replace=True)


def _make(state_dir: str, *, replace: bool) -> str:
    # Not for those who only read it: they must start at once.
    import secrets
    import tempfile

    path = path_in(state_dir)
    token = key_texts.text_of(key_texts.LOCAL_ID, secrets.choice)
    try:
        os.makedirs(state_dir, mode=0o700, exist_ok=True)
        fd, partial = tempfile.mkstemp(prefix=".token-", dir=state_dir)  # 0600
        try:
            with open(fd, "w", encoding="utf-8") as file:
                file.write(f"{token}\n")
                file.flush()
                os.fsync(fd)
            if replace:
                os.replace(partial, path)
            else:
                try:
                    os.link(partial, path)
                except FileExistsError:
                    found = read(state_dir)
                    return found if found is not None else _make(state_dir, replace=False)
        finally:
            if os.path.lexists(partial):
                os.unlink(partial)
    except OSError as error:
        raise ConfigError(f"cannot write the token {path!r}: {error.strerror}") from None
    return token


class TokenFile:
    """What a server keeps of the file: only the hash, and whether the file is still the same."""

    def __init__(self, state_dir: str) -> None:
        """Makes the token if there is none. Raises `ConfigError`."""
        from agent_runtime.access.keys import digest  # as above

        self._digest = digest
        self._state_dir = state_dir
        self._path = path_in(state_dir)
        self._hash = self._digest(ensure(state_dir))
        self._seen = self._look()

    def hash(self) -> str:
        """Of the token in force; empty while there is none. Takes 2 us."""
        if (now := self._look()) != self._seen:
            self._seen = now
            try:
                self._hash = self._digest(ensure(self._state_dir))
                self._seen = self._look()
            except ConfigError as error:
                log.warning("no local token is accepted: %s", error)
                self._hash = ""
        return self._hash

    def _look(self) -> tuple[int, ...]:
        try:
            about = os.stat(self._path)
        except OSError:
            return ()
        return about.st_ino, about.st_mtime_ns, about.st_ctime_ns
