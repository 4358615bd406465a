"""The built-in MCP servers, the wires they speak, and the client for everyone else's tools."""
