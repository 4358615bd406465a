"""The peers' side of the bench, in a venv of their own (`bench/pyproject.toml`).

Each does the same work as the runtime: agents that call a no-op tool one step after the other, each
step durable before the next one begins, by the fastest setting for which its documentation says so.
"""
