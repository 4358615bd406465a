"""The filesystem server: files below the directories that it was given, and nothing else.

Reading order: `server` (what is offered, and on which way a call runs), `schemas` (the tools as
clients see them); then the tools: `reading`, `listing`, `searching`, `changing`; `documents` (files
as resources). Below them: `places` says where a path leads, by one system call (`kernel`) or step
by step (`steps`), beneath `roots`; `walking` goes through all of a directory, `staging` writes a
file at one stroke, `locks` keeps two writers apart, `globs` are patterns. A call that cannot be
done ends as a `Refused`.
"""

from agent_runtime_mcp.filesystem.server import FilesystemServer

__all__ = ["FilesystemServer"]
