"""`approve` and `deny`: a person's answer to what a task asks, from any process."""

from __future__ import annotations

import click

from agent_runtime.app import who
from agent_runtime.cli.console import say, short, task_argument, with_runtime
from agent_runtime.cli.control import say_if_idle
from agent_runtime.runtime import Runtime

_approval_argument = click.argument("approval", metavar="[APPROVAL]", required=False)
_message_option = click.option(
    "-m", "--message", default="", metavar="TEXT", help="Why; the task's brain reads it too."
)


@click.command(
    short_help="Allow what a task asks for.",
    epilog="""\b
Examples:
  agent-runtime approve 4f2a
  agent-runtime approve 4f2a a1 -m "only this once"
""",
)
@task_argument
@_approval_argument
@_message_option
@click.pass_context
def approve(ctx: click.Context, task: str, approval: str | None, message: str) -> int:
    """Allow what a task asks for.

    APPROVAL is the id that `show` and the live view name; without it, the only pending one is
    meant. For a call whose effect is unknown, yes means: go on as if it had been done.
    """
    return _decide(ctx, task, approval, "approve", message)


@click.command(
    short_help="Refuse what a task asks for.",
    epilog="""\b
Examples:
  agent-runtime deny 4f2a
  agent-runtime deny 4f2a a1 -m "use the local mirror instead"
""",
)
@task_argument
@_approval_argument
@_message_option
@click.pass_context
def deny(ctx: click.Context, task: str, approval: str | None, message: str) -> int:
    """Refuse what a task asks for.

    The step that asked fails with your message, and its recovery decides what follows. For a call
    whose effect is unknown, no means: go on as if it had failed.
    """
    return _decide(ctx, task, approval, "deny", message)


def _decide(
    ctx: click.Context, task: str, approval: str | None, decision: str, message: str
) -> int:
    async def do(runtime: Runtime) -> None:
        task_id = await runtime.find(task)
        answered = await runtime.decide_approval(
            task_id, approval, decision, by=who(), message=message
        )
        done = "approved" if decision == "approve" else "denied"
        say(f"{done}: {answered} of {short(task_id)}")
        await say_if_idle(runtime, task_id)

    return with_runtime(ctx, do)
