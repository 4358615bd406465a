"""The command line: `agent-runtime VERB`. This file is all that `--help` imports, besides click.

Each verb lives in a file of its family, which is imported when the verb is used: `run` (run,
resume, continue), `submit`, `attach`, `tasks` (ps, show, logs), `top`, `control` (cancel, pause,
steer), `approvals`, `fork`, `results` (verify, diff, apply), `branches` (pull, publish),
`artifacts`, `report`, `replay` (replay, why), `inspect` (tools, modules, doctor), `models`,
`transfer` (export, import), `keep` (init, gc), `serve`, `mcp`, `sandbox`, `completion`. What they
share: `reach` (a daemon's tasks or those of the local store), `remote` (a daemon's), `console`
(output, errors), `words` (events in words), `follow` (driving and watching a task), `watch`
(watching one that is driven elsewhere), `views` and `live` (how a watched task looks), `summary`
(the end of a task in words).
"""

from __future__ import annotations

import errno
import importlib
import keyword
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from agent_runtime import __version__
from agent_runtime.errors import AgentRuntimeError, DiskFull

FAMILIES: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "Work on a task": {
        "run": ("run", "Run a task here and show how it goes."),
        "submit": ("submit", "Hand off a task, and go."),
        "attach": ("attach", "Watch a task live, and talk to it."),
        "resume": ("run", "Go on with a task that was interrupted, paused, or waits."),
        "continue": ("run", "Open an ended task again, with more to do."),
        "fork": ("fork", "Make another task of the first events of one."),
        "cancel": ("control", "End a task for good."),
        "pause": ("control", "Freeze a task where it stands."),
        "steer": ("control", "Tell a task's brain something."),
        "change": ("control", "Give a task other labels, or another priority."),
        "approve": ("approvals", "Allow what a task asks for."),
        "deny": ("approvals", "Refuse what a task asks for."),
    },
    "Look at tasks": {
        "ps": ("tasks", "List tasks, newest first."),
        "top": ("top", "Show the tasks that live, as they change."),
        "show": ("tasks", "Show where a task stands."),
        "logs": ("tasks", "Print a task's events."),
        "inbox": ("inbox", "List everything that waits for a person."),
        "report": ("report", "Write one page about a task, for whoever reviews it."),
        "why": ("replay", "Tell which events a decision rests on, and by which rule."),
        "replay": ("replay", "Decide a task again from its recorded inputs, and compare."),
    },
    "Take the result": {
        "verify": ("results", "Check that a task's log and claims are what was written."),
        "diff": ("results", "Print the patch that a task made, or compare two tasks."),
        "apply": ("results", "Apply a task's patch to a checkout, or commit it on a branch."),
        "pull": ("branches", "Bring a task's branch back into a checkout."),
        "publish": ("branches", "Push a proven branch to a git remote and open its pull request."),
        "artifacts": ("artifacts", "List the files that a task kept, or write them out."),
    },
    "The installation": {
        "serve": ("serve", "Serve tasks over HTTP, and drive them."),
        "mcp": ("mcp", "Serve MCP clients on stdin and stdout; use other people's MCP servers."),
        "keys": ("keys", "Give out and take back the keys of the daemon."),
        "init": ("keep", "Write an example task file fitted to a repository."),
        "doctor": ("inspect", "Check whether tasks can run here, and say what is missing."),
        "tools": ("inspect", "List the tools that tasks can use."),
        "modules": ("inspect", "List the installed modules."),
        "models": ("models", "List the models that tasks can use, with keys and prices."),
        "sandbox": ("sandbox", "Use the sandbox without a task."),
        "export": ("transfer", "Write an ended task into one file, for another store."),
        "import": ("transfer", "Take in a task that was exported elsewhere."),
        "gc": ("keep", "Remove old tasks and leftovers."),
        "completion": ("completion", "Print the script that completes this command in a shell."),
    },
}
"""Family -> verb -> (file below `agent_runtime.cli`, its one line of help)."""

VERBS: Final = {name: place for family in FAMILIES.values() for name, place in family.items()}

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_LOGS_IT: Final = frozenset({"serve", "completion"})
"""A daemon's log may be JSON and says it itself; a completion script is read by every new shell."""

EPILOG: Final = """\b
Examples:
  agent-runtime init                  write task.yaml for this repository
  agent-runtime run task.yaml         run it; Ctrl-C stops, nothing is lost
  agent-runtime resume 4f2a           go on (the end of an id is enough)
  agent-runtime apply 4f2a            take the result

\b
Exit codes:
  0 ok, 1 failed or unverified, 2 usage, 3 configuration, 4 not allowed, 5 not found,
  6 conflict, 7 unreachable, 8 time-out, 9 waiting for a person or a model, 130 detached (Ctrl-C)
"""


class Verbs(click.Group):
    """Imports a verb when it is used; the border where errors become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"agent_runtime.cli.{VERBS[cmd_name][0]}")
        # `import` is a word of Python's own.
        command = getattr(module, f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(_unknown_verb(args[0]))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, VERBS)) + 2
        for family, verbs in FAMILIES.items():
            with formatter.section(family):
                formatter.write_dl(
                    [(name.ljust(width - 2), text) for name, (_, text) in verbs.items()]
                )

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has seen enough. Nothing may be flushed to it at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = 128 + signal.SIGPIPE
        except KeyboardInterrupt:
            code = 130
        except AgentRuntimeError as error:
            _tell("\n".join([str(error), *getattr(error, "__notes__", ())]))
            _show_traceback(ctx)
            code = error.exit_code
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001 - the outermost border, and it is told
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                ctx.exit(_tell_no_room(ctx, error))
            _tell(
                f"unexpected {type(error).__name__}: {error or 'no message'}\n"
                "This is a defect. `agent-runtime --log-level debug …` shows where it happened; "
                "what was stored before is safe."
            )
            _show_traceback(ctx)
            code = 1
        ctx.exit(code if isinstance(code, int) else 0)


def _tell_no_room(ctx: click.Context, error: OSError) -> int:
    """The exit code. What could not be written stays in the buffer, and must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    what = repr(error.filename) if error.filename else "the output"
    _tell(
        f"{what} cannot be written: {error.strerror}; free some room and try again. A task that "
        "was begun is stored: `agent-runtime ps`"
    )
    _show_traceback(ctx)
    return DiskFull.exit_code


@click.group(
    cls=Verbs,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--store",
    metavar="URL",
    help="Where tasks are kept, such as sqlite:////home/me/store.db. Default: "
    "$AGENT_RUNTIME_STORE, the settings files, else below $XDG_STATE_HOME.",
)
@click.option(
    "--url",
    metavar="URL",
    help="The daemon to ask, such as http://127.0.0.1:8700. Default: $AGENT_RUNTIME_URL, else the "
    "one that serves the store, if there is one.",
)
@click.option("--local", is_flag=True, help="Work on the local store, although a daemon serves it.")
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    help="What the runtime itself says on stderr; debug also prints tracebacks. Default: warning.",
)
@click.version_option(__version__, message="agent-runtime %(version)s", help="Print the version.")
@click.pass_context
def cli(
    ctx: click.Context, store: str | None, url: str | None, local: bool, log_level: str | None
) -> None:
    """Hand off a coding task; get back a proven branch, or an honest "not done".

    Options of this list stand before the verb. `agent-runtime VERB --help` has examples.
    """
    ctx.obj = {"store": store, "log_level": log_level}
    # `url` and `local` are no settings: `reach` looks at them.
    if ctx.invoked_subcommand not in _LOGS_IT and log_level != "error":
        _tell_of_variables()


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Ends the process with the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A file name that is not UTF-8 must not end a listing.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    try:
        cli.main(args=arguments, prog_name="agent-runtime")
    finally:
        # The verb is over; an interpreter that is interrupted at its exit only prints a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _unknown_verb(word: str) -> str:
    if os.path.isfile(word):
        return f"no verb is called {word!r}; to run this task file: agent-runtime run {word}"
    if word == "help":
        return "help is an option: agent-runtime --help, or agent-runtime VERB --help"
    # difflib costs milliseconds to import, and only a mistake needs it.
    import difflib

    near = difflib.get_close_matches(word, VERBS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(VERBS)}"
    return f"no verb is called {word!r}; {hint}"


def _tell(message: str) -> None:
    click.echo(f"error: {message}", err=True)


def _tell_of_variables() -> None:
    if any(name.upper().startswith("AGENT_RUNTIME_") for name in os.environ):
        # Imported here: most people have no such variable.
        from agent_runtime.variables import unread

        for sentence in unread(os.environ):
            click.echo(f"warning: {sentence}", err=True)


def _show_traceback(ctx: click.Context) -> None:
    if (ctx.obj or {}).get("log_level") == "debug":
        # Imported here, because only a failure needs it.
        import traceback

        traceback.print_exc(file=sys.stderr)
