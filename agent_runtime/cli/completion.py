"""`completion`: what a shell needs to complete verbs, options and tasks."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from agent_runtime.cli.console import say

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_AGENT_RUNTIME_COMPLETE"
"""As click makes it of the program's name."""


@click.command(
    short_help="Print the script that completes this command in a shell.",
    epilog="""\b
Examples:
  agent-runtime completion bash > ~/.local/share/bash-completion/completions/agent-runtime
  agent-runtime completion zsh > ~/.zfunc/_agent-runtime
  agent-runtime completion fish > ~/.config/fish/completions/agent-runtime.fish
""",
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print the script that completes verbs, options and a daemon's tasks in a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(ctx.find_root().command, {}, "agent-runtime", _VARIABLE)
    # `source` would start a bash to ask for its version.
    say((made.source_template % made.source_vars()).rstrip("\n"))
    return 0
