"""Modules: what contributes tools and has a life of its own.

Reading order: `registry` (starting, sharing, stopping them), then what is built in. `planning`
is the pure tool `update_plan`, which needs nobody to start it.
"""
