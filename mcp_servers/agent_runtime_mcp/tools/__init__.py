"""The server *tools*: every registered tool for every MCP client, through the effect ledger.

Read `server` first: what clients see. `catalogue` makes definitions of registered tools. A client's
calls are steps of a task whose plan is open: `sessions` finds or makes that task, `calls` asks for
a call and tells what became of it, `course` reads that from the log, `asking` asks a person.
"""
