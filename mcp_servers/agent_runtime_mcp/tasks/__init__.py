"""Calls that outlive their connection: MCP tasks, in both forms, on what is durable.

`keeper` (runs long calls of any server and keeps what becomes of them; a killed daemon goes on with
them), `detached` (what such a call sees of its client), `book` (which task is whose, and which call
becomes one), `forms` (a task as either wire has it), `methods` (the requests of both wires).

Work that has a life of its own, such as the runtime's tasks, is not kept a second time: a server
tells of it through `definitions.BackedTasks`.
"""
