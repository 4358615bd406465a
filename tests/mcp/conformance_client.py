"""Drives our MCP client as the conformance suite wants: `conformance_client.py URL`.

The server becomes a module, as one of the settings does: its tools are looked at, consented to and
called through `RemoteModule`. What only the suite has, somebody at a browser and somebody who
answers questions, stands in for people. The scenario comes in the environment.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
import mcp_types as types
from mcp.client import ClientRequestContext
from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata
from pydantic import AnyUrl

from agent_runtime.errors import ResultLost
from agent_runtime.ports import Installation, ModuleContext, Tool
from agent_runtime.remote_servers import parse_servers
from agent_runtime.types import Json, ToolCall, ToolResult
from agent_runtime_mcp.client.module import RemoteModule
from agent_runtime_mcp.client.web import Tokens

URL = sys.argv[-1]
SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
CONTEXT: Mapping[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
OLD = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "2026-07-28") < "2026"
BACK = "http://localhost:3000/callback"
VALUES: Mapping[str, Json] = {"integer": 5, "number": 5, "string": "text", "boolean": True}


class Browser:
    """Follows the authorization page at once."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    async def visit(self, url: str) -> None:
        async with httpx2.AsyncClient() as client:
            answer = await client.get(url, follow_redirects=False)
        self._found = parse_qs(urlsplit(answer.headers["location"]).query)

    async def came_back(self) -> AuthorizationCodeResult:
        one = {key: values[0] for key, values in self._found.items()}
        return AuthorizationCodeResult(code=one["code"], state=one.get("state"), iss=one.get("iss"))


async def defaults(
    context: ClientRequestContext, params: types.ElicitRequestParams
) -> types.ElicitResult:
    """Somebody who accepts everything as it is proposed."""
    schema = getattr(params, "requested_schema", {})
    content = {
        name: each.get("default", VALUES.get(each.get("type", "string"), "text"))
        for name, each in schema.get("properties", {}).items()
        if "default" in each or name in schema.get("required", ())
    }
    return types.ElicitResult(action="accept", content=content)


async def sign_in() -> httpx2.Auth:
    browser, tokens = Browser(), Tokens()
    if client_id := CONTEXT.get("client_id"):
        secret = CONTEXT.get("client_secret")
        await tokens.set_client_info(
            OAuthClientInformationFull(
                client_id=client_id,
                client_secret=secret,
                redirect_uris=[AnyUrl(BACK)],
                token_endpoint_auth_method="client_secret_basic" if secret else "none",
            )
        )
    return OAuthClientProvider(
        server_url=URL,
        client_metadata=OAuthClientMetadata(
            client_name="agent-runtime",
            redirect_uris=[AnyUrl(BACK)],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
        ),
        storage=tokens,
        redirect_handler=browser.visit,
        callback_handler=browser.came_back,
        client_metadata_url="https://conformance-test.local/client-metadata.json",
    )


async def issuer() -> str:
    """What an operator has read in the server's documentation."""
    url = urlsplit(URL)
    async with httpx2.AsyncClient() as client:
        answer = await client.get(
            f"{url.scheme}://{url.netloc}/.well-known/oauth-protected-resource{url.path}"
        )
    return str(answer.json()["authorization_servers"][0])


def arguments(tool: Tool) -> dict[str, Json]:
    """Something that fits what a tool requires."""
    properties = tool.parameters["properties"]
    return {
        name: VALUES.get(properties[name].get("type", "string"), "text")
        for name in tool.parameters["required"]
    }


def calls(tools: Mapping[str, Tool]) -> Sequence[tuple[Tool, dict[str, Json]]]:
    """Those that the scenario names, else each tool once."""
    if named := CONTEXT.get("toolCalls"):
        return [(tools[f"server__{each['name']}"], each["arguments"]) for each in named]
    return [
        (tool, arguments(tool))
        for name, tool in tools.items()
        if name != "server__read_resource" and tool.parameters is not None
    ]


async def main() -> None:
    with tempfile.TemporaryDirectory() as state:
        declared: dict[str, Json] = {"url": URL, "wire": "2025" if OLD else "auto"}
        auth = None
        if SCENARIO == "auth/client-credentials-basic":
            declared["oauth"] = {
                "client_id": CONTEXT["client_id"],
                "client_secret": "${SECRET}",
                "issuer": await issuer(),
            }
        elif SCENARIO.startswith("auth/"):
            auth = await sign_in()
        servers = parse_servers({"server": declared})
        installation = Installation(
            state_dir=state,
            mcp_servers=servers,
            secrets={"SECRET": "env:SECRET"},
            environ={"SECRET": CONTEXT.get("client_secret", "")},
        )

        def made() -> RemoteModule:
            return RemoteModule("server", servers["server"], installation, auth=auth, ask=defaults)

        looking = made()
        looking.consent(await looking.offered())
        module = made()
        tools = {tool.name: tool for tool in module.tools()}
        await module.initialize(ModuleContext(state_dir=state))
        failures = []
        try:
            for number, (tool, given) in enumerate(calls(tools)):
                call = ToolCall(
                    call_id=str(number), tool=tool.name, arguments=given, workspace="",
                    idempotency_key=f"conformance/{number}", timeout_seconds=20,
                )  # fmt: skip
                try:
                    result = await tool.execute(call)
                except ResultLost as error:
                    result = ToolResult(ok=False, output=str(error))
                print(tool.name, result.ok, result.output[:200], file=sys.stderr)
                if not result.ok:
                    failures.append(tool.name)
        finally:
            await module.cleanup()
    if failures:
        sys.exit(f"these calls failed: {', '.join(failures)}")


if __name__ == "__main__":
    anyio.run(main)
