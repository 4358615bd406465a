"""MCP servers under one load: ours, the TypeScript filesystem server, MCPServer and fastmcp."""
