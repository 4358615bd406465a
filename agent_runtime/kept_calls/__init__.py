"""Calls that outlive the connection over which they came: what is kept of each, and where.

`records` (one call, and how it goes on; pure), `ports` (the store). Who runs them is no business of
this package: the MCP servers do.
"""
