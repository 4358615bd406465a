"""Where tools run. Reading order: `bubblewrap` (what a sandbox is), `mounts` (what it sees),
`launching` (the daemon's side of the process beside it), `launcher`, `spares`, `keeper`, `becoming`
(that process: what the kernel is told, and how death is proven), `session` and `serving` (the two
ends of the worker's stream), `rendering`, `records` (what a crash leaves), `ladder` (the kind).
"""
