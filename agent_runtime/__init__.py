"""A runtime for autonomous software-engineering agents: proof, not claims; kill it anywhere.

Reading order: `types`, `ports`, `loop` (the machine), `tasks` and `runtime` (the in-process API),
`app` (what is plugged into what), `cli`. Importing this package starts nothing and reads no
environment.
"""

__version__ = "0.1.0"
