"""Where tools run. Reading order: `bubblewrap` (what a sandbox is), `mounts` (what it sees),
`launcher` (what the kernel is told, and how death is proven), `session` and `serving` (the two
ends of the worker's stream), `rendering`, `records` (what a crash leaves), `ladder` (which kind).
"""
