"""The one place where the daemon runs git, and what that git may see.

Daemon-side git never reads the configuration of a repository, a user or the system, and runs no
hook, filter, textconv, credential helper or file-system monitor: it gets an environment of its own,
one configuration file of ours (`GIT_CONFIG_GLOBAL`, because that reaches the processes git starts
itself), and always a `GIT_DIR` that we made. What the agent does to the `.git` of its clone is
therefore without effect here.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import IO

import anyio.from_thread

from agent_runtime.errors import DiskFull, WorkspaceError

LOCAL_SECONDS_MAX = 300.0
"""A local git command on a very large repository and a slow disk; beyond it something hangs."""
NETWORK_SECONDS_MAX = 1800.0
"""A first fetch of a large repository over a slow line."""
NETWORK_OBJECT_BYTES_MAX = 1 << 30
"""Of memory for one object: a server's delta of some bytes may unpack to any size. Larger files are
no deltas, and go past the memory (`core.bigFileThreshold`)."""
_POLL_SECONDS = 0.2

ATTRIBUTES_OFF = (
    "* -text -eol -crlf -filter -ident -working-tree-encoding !diff !merge !export-subst"
    " !export-ignore !whitespace\n"
)
"""`info/attributes` has the highest precedence, so this line switches the repository's own off."""

_CONFIG = """\
# Written by agent-runtime: the only configuration that its own git reads.
[core]
	hooksPath = /dev/null
	attributesFile = /dev/null
	excludesFile = /dev/null
	fsmonitor = false
	untrackedCache = false
	autocrlf = false
	protectNTFS = false
	protectHFS = false
[safe]
	directory = *
[gc]
	auto = 0
[maintenance]
	auto = false
[submodule]
	recurse = false
[fetch]
	recurseSubmodules = false
[credential]
	helper =
[init]
	templateDir =
"""

_KEPT_VARIABLES = ("PATH", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class GitFailed(WorkspaceError):
    """Git ended with an unexpected code; `stderr` is what it said, without credentials."""

    def __init__(self, message: str, *, code: int, stderr: str) -> None:
        super().__init__(message)
        self.code = code
        self.stderr = stderr


class Git:
    """Runs git with a private environment; `home` is an empty directory that holds our config.

    All methods block: they are called in worker threads.
    """

    def __init__(self, home: str) -> None:
        self._home = home
        self._env: dict[str, str] | None = None

    def environment(self, extra: Mapping[str, str] = {}) -> dict[str, str]:
        """The whole environment of a git process."""
        if self._env is None:
            self._env = self._prepare()
        return self._env | dict(extra)

    def run(
        self,
        arguments: Sequence[str | bytes],
        *,
        git_dir: str,
        work_tree: str | None = None,
        stdin: bytes = b"",
        env: Mapping[str, str] = {},
        codes: Sequence[int] = (0,),
        network: bool = False,
        fds: Sequence[int] = (),
    ) -> bytes:
        """Run one command and return its stdout. `git_dir` must be one that no agent can write.

        A network command ends when the calling task is cancelled. `fds` are open in git, too.

        Raises:
            GitFailed: another exit code than `codes`.
            WorkspaceError: git is missing or took too long.
        """
        code, stdout, stderr = self._run(
            arguments, git_dir=git_dir, work_tree=work_tree, stdin=stdin, env=env, network=network,
            fds=fds,
        )  # fmt: skip
        if code not in codes:
            raise _failed(arguments, code, _said(stderr))
        return stdout

    def run_capped(
        self, arguments: Sequence[str], *, git_dir: str, bytes_max: int, stdin: bytes = b""
    ) -> bytes | None:
        """As `run` on local objects; None if there is more output: git is stopped then."""
        with (
            tempfile.TemporaryFile() as errors,
            # From a file: git and we would else wait for each other's pipes.
            _file_of(stdin) as given,
            self._start(
                arguments, {"GIT_DIR": git_dir}, git_dir, given.fileno(), errors
            ) as process,
        ):
            hanging = threading.Timer(LOCAL_SECONDS_MAX, _kill, [process])
            hanging.start()
            try:
                assert process.stdout is not None
                stdout: bytes = process.stdout.read(bytes_max + 1)
                if len(stdout) > bytes_max:
                    return None
                code = process.wait()
            finally:
                hanging.cancel()
                _kill(process)
            if code:
                errors.seek(0)
                raise _failed(arguments, code, _said(errors.read()))
        return stdout

    def feed(
        self,
        arguments: Sequence[str],
        *,
        git_dir: str,
        file: IO[bytes],
        env: Mapping[str, str] = {},
        cancellable: bool = False,
    ) -> bytes:
        """As `run`, with a file from where it stands as stdin: it never passes through memory.

        `cancellable`, it ends when the calling task is cancelled.
        """
        extra = {"GIT_DIR": git_dir, **env}
        with (
            tempfile.TemporaryFile() as errors,
            self._start(arguments, extra, git_dir, file.fileno(), errors) as process,
        ):
            try:
                stdout, _ = _communicate(process, None, LOCAL_SECONDS_MAX, cancellable=cancellable)
            except subprocess.TimeoutExpired as error:
                raise WorkspaceError(
                    f"git {_verb(arguments)} did not end within {LOCAL_SECONDS_MAX:.0f} s"
                ) from error
            finally:
                _kill(process)
            if process.returncode:
                errors.seek(0)
                raise _failed(arguments, process.returncode, _said(errors.read()))
        return stdout

    def succeeds(
        self,
        arguments: Sequence[str | bytes],
        *,
        git_dir: str,
        work_tree: str | None = None,
        stdin: bytes = b"",
        env: Mapping[str, str] = {},
    ) -> tuple[bool, bytes, str]:
        """As `run`, but any exit code is an answer: (exit 0?, stdout, stderr)."""
        code, stdout, stderr = self._run(
            arguments, git_dir=git_dir, work_tree=work_tree, stdin=stdin, env=env, network=False
        )
        return code == 0, stdout, _said(stderr)

    def _run(
        self,
        arguments: Sequence[str | bytes],
        *,
        git_dir: str,
        work_tree: str | None,
        stdin: bytes,
        env: Mapping[str, str],
        network: bool,
        fds: Sequence[int] = (),
    ) -> tuple[int, bytes, bytes]:
        extra = {"GIT_DIR": git_dir, **env}
        if network:
            extra["GIT_ALLOC_LIMIT"] = str(NETWORK_OBJECT_BYTES_MAX)
        if work_tree is not None:
            extra["GIT_WORK_TREE"] = work_tree
        seconds_max = NETWORK_SECONDS_MAX if network else LOCAL_SECONDS_MAX
        pipe = subprocess.PIPE
        with self._start(arguments, extra, work_tree or git_dir, pipe, pipe, fds=fds) as process:
            try:
                stdout, stderr = _communicate(process, stdin, seconds_max, cancellable=network)
            except subprocess.TimeoutExpired as error:
                raise WorkspaceError(
                    f"git {_verb(arguments)} did not end within {seconds_max:.0f} s"
                ) from error
            finally:
                _kill(process)
        return process.returncode, stdout, stderr

    def _start(
        self,
        arguments: Sequence[str | bytes],
        env: Mapping[str, str],
        cwd: str,
        stdin: int,
        stderr: int | IO[bytes],
        *,
        fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                ["git", *arguments],
                cwd=cwd,
                env=self.environment(env),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                pass_fds=fds,
            )
        except FileNotFoundError as error:
            raise WorkspaceError(
                "git is not on the PATH of the runtime; install git 2.32 or newer"
            ) from error

    def _prepare(self) -> dict[str, str]:
        os.makedirs(self._home, mode=0o700, exist_ok=True)
        config_path = os.path.join(self._home, "gitconfig")
        write_atomically(config_path, _CONFIG.encode())
        env = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        for name in _PROXY_VARIABLES:
            env |= {n: os.environ[n] for n in (name, name.upper()) if n in os.environ}
        return env | {
            "LC_ALL": "C",
            "HOME": self._home,
            "XDG_CONFIG_HOME": self._home,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": config_path,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
            "GIT_ALLOW_PROTOCOL": "git:http:https:ssh",
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_LITERAL_PATHSPECS": "1",
        }


def _file_of(data: bytes) -> IO[bytes]:
    file = tempfile.TemporaryFile()
    file.write(data)
    file.seek(0)
    return file


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # With its helpers: a killed git leaves its git-remote-https waiting.
        os.killpg(process.pid, signal.SIGKILL)


def _failed(arguments: Sequence[str | bytes], code: int, said: str) -> WorkspaceError:
    # A server whose disk is full, or that says so, tells nothing about ours.
    ours = "\n".join(line for line in said.splitlines() if not line.startswith("remote:"))
    if any(os.strerror(number) in ours for number in (errno.ENOSPC, errno.EDQUOT)):
        return no_room(said)
    verb = _verb(arguments)
    return GitFailed(f"git {verb} ended with {code}: {said[-2000:]}", code=code, stderr=said)


def no_room(reason: object) -> DiskFull:
    """What a full disk is for everybody who works on a workspace."""
    return DiskFull(
        f"no room for the working copy and its versions ({reason}): free some and try again"
    )


def _communicate(
    process: subprocess.Popen[bytes], stdin: bytes | None, seconds_max: float, *, cancellable: bool
) -> tuple[bytes, bytes]:
    if not cancellable:
        return process.communicate(stdin, timeout=seconds_max)
    for _ in range(int(seconds_max / _POLL_SECONDS)):
        try:
            return process.communicate(stdin, timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            anyio.from_thread.check_cancelled()
    raise subprocess.TimeoutExpired("git", seconds_max)


def _said(stderr: bytes) -> str:
    # ssh ends its lines as terminals want them.
    return redact(stderr.decode("utf-8", "replace").replace("\r\n", "\n").strip())


def _verb(arguments: Sequence[str | bytes]) -> str:
    words = (a if isinstance(a, str) else os.fsdecode(a) for a in arguments)
    return next((word for word in words if not word.startswith("-")), "")


def redact(text: str) -> str:
    """`text` without the user and password of any URL in it."""
    return re.sub(r"(\w+://)[^/@\s]+@", r"\1", text)


def write_atomically(path: str, data: bytes, *, durable: bool = False) -> None:
    """Replace `path` by `data`: whoever is killed, it holds the old bytes or the new ones.

    `durable` says the same of a power cut.
    """
    temporary = f"{path}.{os.getpid()}.{threading.get_ident()}.tmp"
    with open(temporary, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)


def make_git_dir(path: str, *, bare: bool, head: str = "ref: refs/heads/main") -> None:
    """An empty repository with nothing in it that git would run or read beyond what we state."""
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        os.makedirs(os.path.join(path, name), exist_ok=True)
    flag = "true" if bare else "false"
    write_atomically(
        os.path.join(path, "config"),
        f"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = {flag}\n".encode(),
    )
    write_atomically(os.path.join(path, "info", "attributes"), ATTRIBUTES_OFF.encode())
    write_atomically(os.path.join(path, "HEAD"), f"{head}\n".encode())
