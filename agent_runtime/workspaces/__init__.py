"""Working copies of repositories, versioned where no sandbox can see it.

Reading order: `local` (the port), `clone` and `source` (how a working copy is made), `trees` (its
versions), `scan` and `write` (directory to tree and back), `objects` (the private store), `files`
(safe file operations), `git` (the only place that runs git), `export` and `verify` (the proof),
`apply` (the result reaches the user), `locks` (one owner of an in-place directory).
"""

from agent_runtime.workspaces.local import LocalWorkspaces

__all__ = ["LocalWorkspaces"]
