"""The `git_*` tools: the repository of the workspace, by GitPython, inside the sandbox.

What a repository's configuration can make git start is switched off in one place (`_SETTINGS`):
hooks, pagers, editors, signing, file system monitors; external diff and textconv programs are
refused by option. Filters (`filter.*.clean`) are left alone, because a checkout would be wrong
without them; like everything else here, they run in the sandbox. A name that starts with a dash is
refused where git would read an option, and paths are literal.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent_runtime.errors import ToolRefused
from agent_runtime.texts import shown
from agent_runtime.toolkit import OUTPUT_CHARS_MAX, DecideEffect, FunctionTool, cap, tool
from agent_runtime.types import Effect, EffectPolicy, Json, ToolCall, ToolResult
from agent_runtime_tools._processes import Kept, Pump, environment, kill_all, shell_exit
from agent_runtime_tools._results import os_errors_as_results

if TYPE_CHECKING:  # every import here costs a worker's start
    import git

    from agent_runtime.ports import Tool

IDENTITY: Final = ("agent-runtime", "agent@agent-runtime.invalid")
LOG_COMMITS: Final = 20
_SETTINGS: Final[Mapping[str, str]] = {
    "safe.directory": "*",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.pager": "cat",
    "core.quotePath": "false",
    "core.sshCommand": "false",
    "credential.helper": "",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "log.showSignature": "false",
    "diff.external": "",
    "diff.submodule": "short",
    "status.submoduleSummary": "false",
    "submodule.recurse": "false",
    "blame.ignoreRevsFile": "",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "advice.detachedHead": "false",
    "color.ui": "never",
}
_ENVIRONMENT: Final[Mapping[str, str]] = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_EDITOR": "false",
    "GIT_SEQUENCE_EDITOR": "false",
    "GIT_PAGER": "cat",
    "GIT_AUTHOR_NAME": IDENTITY[0],
    "GIT_AUTHOR_EMAIL": IDENTITY[1],
    "GIT_COMMITTER_NAME": IDENTITY[0],
    "GIT_COMMITTER_EMAIL": IDENTITY[1],
}
_NO_PROGRAMS: Final = ("--no-ext-diff", "--no-textconv", "--no-color")
_AUTHOR: Final = re.compile(r"[^<>\n]+ <[^<>\s]+>")


def tools() -> Sequence[Tool]:
    """The entry point."""
    return [
        git_status, git_diff, git_log, git_show, git_blame, git_add, git_commit, git_branch,
        git_checkout, git_reset, git_stash,
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished git command."""

    exit: int
    out: bytes
    err: bytes
    timed_out: bool

    def result(self, *, data: Json = None, text: str | None = None) -> ToolResult:
        """What the brain sees: `text`, else all that git printed."""
        out = self.out.decode("utf-8", "replace")
        if text is None or self.exit != 0:
            text = out + self.err.decode("utf-8", "replace")
        note = "[timed out: git was killed]" if self.timed_out else ""
        ok = self.exit == 0
        return ToolResult(
            ok=ok,
            output=cap(text, OUTPUT_CHARS_MAX - len(note)) + note,
            exit=self.exit,
            kind="" if ok else "timeout" if self.timed_out else "failed",
            data=data if ok else None,
            raw=text.encode() if len(text) > OUTPUT_CHARS_MAX else None,
        )


class Failed(Exception):
    """A command did not exit 0, and nothing can follow it; the tool's result is made of it."""

    def __init__(self, ran: Ran) -> None:
        super().__init__(ran.exit)
        self.ran = ran


class Repository:
    """The workspace's repository for the length of one call."""

    def __init__(self, call: ToolCall, repo: git.Repo) -> None:
        self.arguments = call.arguments
        self._repo = repo
        self._deadline = time.monotonic() + call.timeout_seconds
        settings = dict(enumerate(_SETTINGS.items()))
        self._env = {
            **environment(call),
            **_ENVIRONMENT,
            "GIT_DIR": str(repo.git_dir),
            "GIT_WORK_TREE": call.workspace,
            "GIT_CONFIG_COUNT": str(len(settings)),
            **{f"GIT_CONFIG_KEY_{number}": key for number, (key, _) in settings.items()},
            **{f"GIT_CONFIG_VALUE_{number}": value for number, (_, value) in settings.items()},
        }

    def run(self, *arguments: str) -> Ran:
        """Run `git ARGUMENTS…` until the call's deadline."""
        # Literal for all but stash: its own `:/` would be a file name then, and untracked files
        # that it has put away would stay.
        paths = [] if arguments[0] == "stash" else ["--literal-pathspecs"]
        argv = [self._repo.git.GIT_PYTHON_GIT_EXECUTABLE, "--no-pager", *paths, *arguments]
        started = self._repo.git.execute(
            argv, as_process=True, env=self._env, start_new_session=True
        )
        process: subprocess.Popen[bytes] | None = started.proc
        assert process is not None
        out, err = Kept(), Kept()
        with process:
            assert process.stdout is not None and process.stderr is not None
            pump = Pump(
                process, {process.stdout.fileno(): out.add, process.stderr.fileno(): err.add}
            )
            timed_out = pump.run(deadline=self._deadline) == "timeout"
            if timed_out:
                kill_all(process, self._env)
            pump.linger()
            code = process.wait()
        return Ran(124 if timed_out else shell_exit(code), out.content(), err.content(), timed_out)

    def must(self, *arguments: str) -> Ran:
        """As `run`. Raises `Failed` if it does not exit 0."""
        ran = self.run(*arguments)
        if ran.exit != 0:
            raise Failed(ran)
        return ran

    def ref(self, key: str = "ref") -> list[str]:
        """A revision or branch name of the arguments, or nothing.

        Raises:
            ToolRefused: git would take it for an option.
        """
        value = self.arguments.get(key)
        if value is None:
            return []
        if value.startswith("-"):
            raise ToolRefused(f"{key} {value!r} starts with '-': git would read an option")
        return [value]

    def paths(self) -> list[str]:
        """What comes last on a command line; after `--` a name cannot be an option."""
        return ["--", *self.arguments.get("paths", ())]

    def flags(self, **options: str) -> list[str]:
        """The options whose arguments are true."""
        return [option for key, option in options.items() if self.arguments.get(key)]


def _git_tool(
    effect: Effect | DecideEffect, *, required: Sequence[str] = (), **parameters: Json
) -> Callable[[Callable[[Repository], ToolResult]], FunctionTool]:
    """A tool of the belt `git`: opens the repository, and turns failures into results."""

    def make(function: Callable[[Repository], ToolResult]) -> FunctionTool:
        @functools.wraps(function)
        def execute(call: ToolCall) -> ToolResult:
            _refuse_nul(call.arguments)
            with _opened(call) as repository:
                try:
                    return function(repository)
                except Failed as failed:
                    return failed.ran.result()

        return tool(effect=effect, toolbelt="git", parameters=parameters, required=required)(
            os_errors_as_results(execute)
        )

    return make


@contextmanager
def _opened(call: ToolCall) -> Iterator[Repository]:
    # GitPython costs 100 ms to import: only the first call of a git tool pays. Quiet, because on
    # import it looks for git on the worker's PATH, while calls use the task's.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import git

    try:
        repo = git.Repo(call.workspace, expand_vars=False)
    except (git.InvalidGitRepositoryError, git.NoSuchPathError):
        raise ToolRefused(f"the workspace {call.workspace!r} is not a git repository") from None
    try:
        with repo:
            yield Repository(call, repo)
    except git.GitCommandNotFound:
        raise ToolRefused("there is no git on the task's PATH") from None


def _text(description: str, **rules: Json) -> Json:
    return {"type": "string", "minLength": 1, "description": description, **rules}


def _flag(description: str) -> Json:
    return {"type": "boolean", "description": f"{description}."}


def _paths(description: str) -> Json:
    return {
        "type": "array",
        "items": {"type": "string", "minLength": 1},
        "minItems": 1,
        "description": description,
    }


_REF: Final = _text("A commit, branch, tag or range such as main..HEAD; default HEAD.")
_LIMITED_TO: Final = _paths("Only these.")


# ---- reading -----------------------------------------------------------------------------


@_git_tool(Effect.READ, paths=_LIMITED_TO)
def git_status(repository: Repository) -> ToolResult:
    """Show the branch and which files are changed, staged or untracked."""
    ran = repository.must("status", "--porcelain=v1", "--branch", "-z", *repository.paths())
    fields = iter(ran.out.decode("utf-8", "backslashreplace").split("\0"))
    branch = next(fields, "").removeprefix("## ")
    files, lines = [], [f"## {branch}"]
    for entry in fields:
        if not entry:
            continue
        state, path = entry[:2], shown(entry[3:])
        source = shown(next(fields, "")) if "R" in state or "C" in state else None
        files.append({"path": path, "index": state[0], "worktree": state[1], "from": source})
        lines.append(f"{state} {source + ' -> ' if source else ''}{path}")
    return ran.result(text="\n".join(lines), data={"branch": branch, "files": files})


@_git_tool(
    Effect.READ,
    ref=_text("A commit or range; default: what is staged."),
    other=_text("Compare `ref` with this one."),
    staged=_flag("What is staged"),
    paths=_LIMITED_TO,
    context={"type": "integer", "minimum": 0, "maximum": 100, "description": "Lines around."},
    stat=_flag("Only names and counts"),
)
def git_diff(repository: Repository) -> ToolResult:
    """Show changes: of the files against what is staged, or as the arguments say."""
    context = repository.arguments.get("context")
    return repository.run(
        "diff",
        *_NO_PROGRAMS,
        *repository.flags(staged="--cached", stat="--stat"),
        *([] if context is None else [f"--unified={context}"]),
        "--end-of-options",
        *repository.ref(),
        *repository.ref("other"),
        *repository.paths(),
    ).result()


@_git_tool(
    Effect.READ,
    ref=_REF,
    paths=_LIMITED_TO,
    limit={
        "type": "integer",
        "minimum": 1,
        "maximum": 1000,
        "description": f"At most so many commits; default {LOG_COMMITS}.",
    },
)
def git_log(repository: Repository) -> ToolResult:
    """List commits, newest first: short id, date, author, subject."""
    ran = repository.must(
        "log",
        "-z",
        "--format=%H%x1f%aI%x1f%an%x1f%ae%x1f%s",
        f"--max-count={repository.arguments.get('limit', LOG_COMMITS)}",
        "--end-of-options",
        *(repository.ref() or ["HEAD"]),
        *repository.paths(),
    )
    keys = ("commit", "date", "author", "email", "subject")
    commits = [
        dict(zip(keys, record.split("\x1f"), strict=False))
        for record in ran.out.decode("utf-8", "replace").split("\0")
        if record
    ]
    lines = [
        f"{one['commit'][:12]} {one['date'][:10]} {one['author']}: {one.get('subject', '')}"
        for one in commits
    ]
    return ran.result(text="\n".join(lines), data={"commits": commits})


@_git_tool(
    Effect.READ,
    ref=_text("A commit or tag; default HEAD."),
    path=_text("Show this file as it is in that commit."),
    stat=_flag("Only the changed files with their counts"),
)
def git_show(repository: Repository) -> ToolResult:
    """Show a commit with its changes, or one file as it is in a commit."""
    (ref,) = repository.ref() or ["HEAD"]
    path = repository.arguments.get("path")
    return repository.run(
        "show",
        *_NO_PROGRAMS,
        *repository.flags(stat="--stat"),
        "--end-of-options",
        ref if path is None else f"{ref}:{path}",
        "--",
    ).result()


@_git_tool(
    Effect.READ,
    required=("path",),
    path=_text("The file."),
    ref=_text("As of this commit; default: as it is in the workspace."),
    start={"type": "integer", "minimum": 1, "description": "First line; default 1."},
    end={"type": "integer", "minimum": 1, "description": "Last line; default the last."},
)
def git_blame(repository: Repository) -> ToolResult:
    """Show which commit last changed each line of a file."""
    start, end = (repository.arguments.get(key, "") for key in ("start", "end"))
    return repository.run(
        "blame",
        "--no-textconv",
        "--date=short",
        *([f"-L{start or 1},{end}"] if start or end else []),
        *repository.ref(),
        "--",
        repository.arguments["path"],
    ).result()


# ---- writing -----------------------------------------------------------------------------


def _branch_effect(arguments: Mapping[str, Json], policy: EffectPolicy) -> Effect:
    return Effect.WORKSPACE if arguments.get("name") else Effect.READ


def _stash_effect(arguments: Mapping[str, Json], policy: EffectPolicy) -> Effect:
    return Effect.READ if arguments.get("action") in ("list", "show") else Effect.WORKSPACE


@_git_tool(
    Effect.WORKSPACE,
    paths=_paths("Files and directories to stage."),
    all=_flag("Stage every change, deletions and new files too"),
)
def git_add(repository: Repository) -> ToolResult:
    """Stage files for the next commit."""
    if not repository.arguments.get("all") and not repository.arguments.get("paths"):
        raise ToolRefused("git_add needs `paths`, or `all`: true")
    return repository.run("add", *repository.flags(all="--all"), *repository.paths()).result()


@_git_tool(
    Effect.WORKSPACE,
    message=_text("The commit message; may be left out when amending."),
    all=_flag("Stage changed and deleted files first"),
    amend=_flag("Replace the last commit"),
    allow_empty=_flag("Commit even if nothing has changed"),
    author=_text("Name <mail>; default: the runtime's own identity."),
)
def git_commit(repository: Repository) -> ToolResult:
    """Commit what is staged. Hooks and signing are off."""
    message, author = (repository.arguments.get(key) for key in ("message", "author"))
    if message is None and not repository.arguments.get("amend"):
        raise ToolRefused("git_commit needs a `message` unless it amends")
    if author is not None and not _AUTHOR.fullmatch(author):
        raise ToolRefused(f"author {author!r} must read 'Name <mail>'")
    repository.must(
        "commit",
        "--quiet",
        "--no-verify",
        "--no-gpg-sign",
        *repository.flags(all="--all", amend="--amend", allow_empty="--allow-empty"),
        *(["--no-edit"] if message is None else [f"--message={message}"]),
        *([] if author is None else [f"--author={author}"]),
    )
    ran = repository.must(
        "log", "-1", "--format=%H%n%h %s", "--shortstat", "--end-of-options", "HEAD", "--"
    )
    commit, _, summary = ran.out.decode("utf-8", "replace").partition("\n")
    return ran.result(text=summary.rstrip(), data={"commit": commit})


@_git_tool(
    _branch_effect,
    name=_text("The branch; without it, branches are listed."),
    start=_text("Where a new branch starts; default HEAD."),
    delete=_flag("Delete the branch"),
    force=_flag("Also move an existing branch, or delete one that is not merged"),
)
def git_branch(repository: Repository) -> ToolResult:
    """List branches, or make or delete one."""
    name = repository.ref("name")
    if not name:
        listed = repository.must("branch", "--format=%(HEAD) %(refname:short) %(objectname)")
        lines = listed.out.decode("utf-8", "replace").splitlines()
        branches = [
            {"name": line[2:].rpartition(" ")[0], "commit": line.rpartition(" ")[2]}
            for line in lines
        ]
        current = next((line[2:].rpartition(" ")[0] for line in lines if line[0] == "*"), None)
        return listed.result(data={"branches": branches, "current": current})
    force = repository.flags(force="--force")
    if repository.arguments.get("delete"):
        return repository.run("branch", "--delete", *force, "--end-of-options", *name).result()
    return repository.run(
        "branch", "--no-track", *force, "--end-of-options", *name, *repository.ref("start")
    ).result()


@_git_tool(
    Effect.WORKSPACE,
    ref=_text(
        "A branch or commit to switch to, or to take `paths` from. The source's own branches are "
        "called origin/NAME."
    ),
    create=_text("Make this branch (at `ref`, default HEAD) and switch to it."),
    paths=_paths("Take these files back instead of switching; changes in them are lost."),
    force=_flag("Switch even if that throws away changes"),
)
def git_checkout(repository: Repository) -> ToolResult:
    """Switch to a branch or commit, make a branch, or discard changes of files."""
    arguments = repository.arguments
    ref, create = repository.ref(), repository.ref("create")
    if not (ref or create or arguments.get("paths")):
        raise ToolRefused("git_checkout needs `ref`, `create` or `paths`")
    if create and arguments.get("paths"):
        raise ToolRefused("git_checkout takes `create` or `paths`, not both")
    options = ["--no-guess", *repository.flags(force="--force")]
    if create:
        options += ["--no-track", "-b", *create]
    return repository.run("checkout", *options, *ref, *repository.paths()).result()


@_git_tool(
    Effect.WORKSPACE,
    mode={
        "enum": ["soft", "mixed", "hard"],
        "description": "soft keeps files and what is staged, mixed (default) keeps files, hard "
        "keeps neither.",
    },
    ref=_text("Where the branch is moved to; default HEAD."),
    paths=_paths("Only unstage these (no mode)."),
)
def git_reset(repository: Repository) -> ToolResult:
    """Move the branch to another commit, or unstage files."""
    mode, paths = (repository.arguments.get(key) for key in ("mode", "paths"))
    if mode and paths:
        raise ToolRefused("git_reset takes `mode` or `paths`, not both")
    return repository.run(
        "reset",
        *([] if paths else [f"--{mode or 'mixed'}"]),
        *(repository.ref() or ["HEAD"]),
        *repository.paths(),
    ).result()


@_git_tool(
    _stash_effect,
    required=("action",),
    action={
        "enum": ["push", "pop", "apply", "drop", "list", "show"],
        "description": "push puts changes away, pop brings them back and forgets them.",
    },
    message=_text("What a pushed stash is called."),
    include_untracked=_flag("Push files that git does not know, too"),
    index={"type": "integer", "minimum": 0, "description": "Which stash; default 0, the newest."},
)
def git_stash(repository: Repository) -> ToolResult:
    """Put uncommitted changes away, or bring them back."""
    action, message = (repository.arguments.get(key) for key in ("action", "message"))
    which = f"stash@{{{repository.arguments.get('index', 0)}}}"
    match action:
        case "push":
            options = repository.flags(include_untracked="--include-untracked")
            options += [] if message is None else [f"--message={message}"]
            return repository.run("stash", "push", *options).result()
        case "list":
            return repository.run("stash", "list").result()
        case "show":
            return repository.run("stash", "show", "--patch", *_NO_PROGRAMS, which).result()
        case _:
            return repository.run("stash", str(action), which).result()


def _refuse_nul(arguments: Mapping[str, Json]) -> None:
    for key, value in arguments.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and "\0" in text:
                raise ToolRefused(f"{key} {text!r} holds a NUL character")
