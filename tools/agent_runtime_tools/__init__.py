"""The built-in tools: plug-ins like any other; they run inside the sandbox.

Reading order: `shell` and `python` run code (`_processes` waits for it), `files` reads and changes
files (`_places` finds them, `_contents` writes them, `agent_runtime.edits` and `_diffs` decide what
to write),
`search` looks around, `git` knows the repository. Each public file has `tools()`, its entry point.
Importing one costs a worker's start, so that heavy clients are imported by the first call.
"""
