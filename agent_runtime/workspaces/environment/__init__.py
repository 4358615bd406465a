"""What a task's commands find around the repository: who says it, how it is made, where it is kept.

Reading order: `recipes` (whose word counts), `detection`, `devcontainer`, `setup_steps` (what a
repository's files say), `entries` (what a setup left, kept under a hash), `local` (the port).
"""

from agent_runtime.workspaces.environment.local import LocalEnvironment

__all__ = ["LocalEnvironment"]
