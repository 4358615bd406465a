"""`bench.mcp.measure` in the peers' venv."""

from bench.mcp.measure import main

if __name__ == "__main__":
    main()
