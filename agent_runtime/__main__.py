"""`python -m agent_runtime` is `agent-runtime`."""

from __future__ import annotations

from agent_runtime.cli import main

if __name__ == "__main__":
    main()
