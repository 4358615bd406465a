"""The tools, resources and prompts that the MCP conformance suite asks for by name.

A plug-in like anybody's: found by its entry point, mounted by the daemon at /mcp/conformance.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
from task_tools import definitions as task_tools

from agent_runtime_mcp.definitions import (
    Asked,
    Change,
    McpFault,
    McpServer,
    Page,
    PromptAnswer,
    PromptArgument,
    PromptDefinition,
    ResourceDefinition,
    ToolAnswer,
    ToolDefinition,
    Unsupported,
    text,
)
from agent_runtime_mcp.entries import Entry

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADU"
    "lEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SILENCE = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
MISSING_CAPABILITY = -32021

Run = Callable[[Mapping[str, Any], Asked], Awaitable[ToolAnswer]]


def a_text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def wants(**properties: Any) -> dict[str, Any]:
    """A form with these fields, all required."""
    return {"type": "object", "properties": properties, "required": list(properties)}


STRING = {"type": "string"}


def form(message: str, schema: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return "elicitation/create", {"message": message, "requestedSchema": schema}


def sample(prompt: str, tokens: int = 100) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": a_text(prompt)}]
    return "sampling/createMessage", {"messages": messages, "maxTokens": tokens}


ROOTS: tuple[str, dict[str, Any]] = ("roots/list", {})
NAME = wants(name=STRING)


def given(answer: Mapping[str, Any], field: str) -> str:
    return str((answer.get("content") or {}).get(field, "?"))


class Fixtures(McpServer):
    """One of each thing."""

    name = "conformance"
    title = "Conformance fixtures"
    instructions = "Fixtures of a test suite; nothing of use."
    has_resources = True
    has_prompts = True
    has_completion = True
    has_tasks = True

    def __init__(self) -> None:
        self._listeners: set[Any] = set()
        self._tools = [*self._contents(), *self._talking(), *self._asking(), *self._special()]
        self._tools += task_tools()

    async def tools(self, asked: Asked) -> Sequence[ToolDefinition]:
        return self._tools

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        return next((each.input_schema for each in self._tools if each.name == name), None)

    # ---- what comes back -----------------------------------------------------------------

    def _contents(self) -> list[ToolDefinition]:
        image = {"type": "image", "data": PIXEL, "mimeType": "image/png"}
        audio = {"type": "audio", "data": SILENCE, "mimeType": "audio/wav"}

        def embedded(uri: str, mime: str, content: str) -> dict[str, Any]:
            return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": content}}

        alone = embedded(
            "test://embedded-resource", "text/plain", "This is an embedded resource content."
        )
        mixed = embedded(
            "test://mixed-content-resource", "application/json", '{"test":"data","value":123}'
        )
        fixed = {
            "test_simple_text": [a_text("This is a simple text response for testing.")],
            "test_image_content": [image],
            "test_audio_content": [audio],
            "test_embedded_resource": [alone],
            "test_multiple_content_types": [a_text("Multiple content types test:"), image, mixed],
        }

        def answering(blocks: list[dict[str, Any]]) -> Callable[..., ToolAnswer]:
            return lambda arguments, asked: ToolAnswer(blocks)

        tools = [
            ToolDefinition(
                name=name,
                description=f"Answers with {len(blocks)} block(s).",
                input_schema=NOTHING,
                now=answering(blocks),
                run=never,
            )
            for name, blocks in fixed.items()
        ]

        async def fails(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            return ToolAnswer(
                [a_text("This tool intentionally returns an error for testing")], is_error=True
            )

        return [*tools, tool("test_error_handling", fails)]

    # ---- while it runs -------------------------------------------------------------------

    def _talking(self) -> list[ToolDefinition]:
        async def logs(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            for line in ("started", "processing data", "completed"):
                await asked.log("info", f"Tool execution {line}")
            return text("Tool with logging executed successfully")

        async def progresses(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            for done in (0, 50, 100):
                await asked.progress(done, 100, f"Completed step {done} of 100")
            return text(str(asked.meta.get("progressToken", "none")))

        async def samples(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            try:
                found = await asked.ask({"answer": sample(str(arguments["prompt"]))})
            except Unsupported as why:
                return text(f"Sampling not supported: {why}")
            return text(f"LLM response: {given(found['answer'], 'text')}")

        def elicits(message: str | None, schema: Mapping[str, Any]) -> Run:
            async def run(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
                said = message or str(arguments["message"])
                try:
                    found = (await asked.ask({"answer": form(said, schema)}))["answer"]
                except Unsupported as why:
                    return text(f"Elicitation not supported: {why}")
                content = json.dumps(found.get("content") or {})
                return text(f"Elicitation completed: action={found['action']}, content={content}")

            return run

        async def streams(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            await asked.progress(1, 2, "about to ask")
            found = await asked.ask({"user_name": form("What is your name?", NAME)})
            return text(f"Hello, {given(found['user_name'], 'name')}!")

        return [
            tool("test_tool_with_logging", logs),
            tool("test_logging_tool", logs),
            tool("test_streaming_elicitation", streams),
            tool("test_tool_with_progress", progresses),
            tool("test_sampling", samples, wants(prompt=STRING)),
            tool("test_elicitation", elicits(None, wants(response=STRING)), wants(message=STRING)),
            tool("test_elicitation_sep1034_defaults", elicits("Who are you?", DEFAULTS)),
            tool("test_elicitation_sep1330_enums", elicits("Which of these?", ENUMS)),
        ]

    # ---- in rounds -----------------------------------------------------------------------

    def _asking(self) -> list[ToolDefinition]:
        async def one(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            found = await asked.ask({"user_name": form("What is your name?", NAME)})
            return text(f"Hello, {given(found['user_name'], 'name')}!")

        async def sampling(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            found = await asked.ask({"capital_question": sample("What is the capital of France?")})
            return text(f"Model said: {given(found['capital_question'], 'text')}")

        async def roots(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            found = await asked.ask({"client_roots": ROOTS})
            return text(f"Client exposed {len(found['client_roots'].get('roots', []))} root(s).")

        async def state(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            await asked.ask({"confirm": form("Please confirm", CONFIRM)}, state="nonce")
            return text(f"state-ok: {asked.state}")

        async def several(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            await asked.ask(
                {
                    "user_name": form("What is your name?", NAME),
                    "greeting": sample("Generate a greeting", 50),
                    "client_roots": ROOTS,
                },
                state="several",
            )
            return text("All inputs received.")

        async def rounds(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            first = await asked.ask({"step1": form("Step 1: What is your name?", NAME)}, state="1")
            second = await asked.ask(
                {"step2": form("Step 2: Which colour do you like?", wants(color=STRING))}, state="2"
            )
            return text(f"{given(first['step1'], 'name')} likes {given(second['step2'], 'color')}.")

        async def capable(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            questions: dict[str, tuple[str, dict[str, Any]]] = {}
            if asked.can("sampling"):
                questions["sample"] = sample("Say hello", 50)
            if asked.can("elicitation"):
                questions["ask"] = form("What is your name?", NAME)
            await asked.ask(questions, state="capability-gated")
            return text("asked what can be answered")

        return [
            tool("test_input_required_result_elicitation", one),
            tool("test_input_required_result_sampling", sampling),
            tool("test_input_required_result_list_roots", roots),
            tool("test_input_required_result_request_state", state),
            tool("test_input_required_result_multiple_inputs", several),
            tool("test_input_required_result_multi_round", rounds),
            tool("test_input_required_result_tampered_state", state),
            tool("test_input_required_result_capabilities", capable),
        ]

    # ---- special cases -------------------------------------------------------------------

    def _special(self) -> list[ToolDefinition]:
        async def schema(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            return text("json_schema_2020_12_tool")

        async def header(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            return text(f"region={arguments.get('region', '<none>')}")

        async def capability(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
            if not asked.can("sampling"):
                raise McpFault(
                    MISSING_CAPABILITY,
                    "This tool requires the client 'sampling' capability",
                    {"requiredCapabilities": {"sampling": {}}},
                )
            return text("Client declared sampling capability; proceeding.")

        def changing(change: Change) -> Run:
            async def run(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
                for listener in list(self._listeners):
                    await listener.send(change)
                return text(f"{change.kind} changed")

            return run

        region = {"region": {"type": "string", "x-mcp-header": "Region"}}
        return [
            tool("json_schema_2020_12_tool", schema, JSON_SCHEMA_2020_12),
            tool("test_x_mcp_header", header, {"type": "object", "properties": region}),
            tool("test_missing_capability", capability),
            tool("test_trigger_tool_change", changing(Change("tools"))),
            tool("test_trigger_prompt_change", changing(Change("prompts"))),
        ]

    # ---- resources -----------------------------------------------------------------------

    async def resources(self, asked: Asked, cursor: str) -> Page[ResourceDefinition]:
        return Page(
            [
                ResourceDefinition(uri=uri, name=uri.partition("://")[2], mime_type=mime)
                for uri, mime in (
                    ("test://static-text", "text/plain"),
                    ("test://static-binary", "image/png"),
                    ("test://watched-resource", "text/plain"),
                )
            ]
        )

    async def resource_templates(self, asked: Asked) -> Sequence[ResourceDefinition]:
        return [
            ResourceDefinition(
                uri="test://template/{id}/data",
                name="template",
                mime_type="application/json",
                is_template=True,
            )
        ]

    async def read_resource(self, uri: str, asked: Asked) -> Sequence[Mapping[str, Any]]:
        match uri.removeprefix("test://").split("/"):
            case ["static-text"]:
                said = "This is the content of the static text resource."
                return [{"uri": uri, "mimeType": "text/plain", "text": said}]
            case ["static-binary"]:
                return [{"uri": uri, "mimeType": "image/png", "blob": PIXEL}]
            case ["watched-resource"]:
                return [{"uri": uri, "mimeType": "text/plain", "text": "Watched resource content"}]
            case ["template", item, "data"]:
                data = {"id": item, "templateTest": True, "data": f"Data for ID: {item}"}
                return [{"uri": uri, "mimeType": "application/json", "text": json.dumps(data)}]
        return await super().read_resource(uri, asked)

    async def changes(self, uris: Sequence[str], asked: Asked) -> AsyncIterator[Change]:
        send, receive = anyio.create_memory_object_stream[Change](16)
        self._listeners.add(send)
        try:
            async for change in receive:
                yield change
        finally:
            self._listeners.discard(send)
            send.close()
            receive.close()

    # ---- prompts -------------------------------------------------------------------------

    async def prompts(self, asked: Asked) -> Sequence[PromptDefinition]:
        return [
            PromptDefinition(name="test_simple_prompt", description="Has no arguments."),
            PromptDefinition(
                name="test_prompt_with_arguments",
                description="Has two.",
                arguments=[
                    PromptArgument(name=name, description="A word", required=True)
                    for name in ("arg1", "arg2")
                ],
            ),
            PromptDefinition(
                name="test_prompt_with_embedded_resource",
                description="Carries a document.",
                arguments=[PromptArgument(name="resourceUri", description="Its", required=True)],
            ),
            PromptDefinition(name="test_prompt_with_image", description="Carries an image."),
            PromptDefinition(name="test_input_required_result_prompt", description="Asks back."),
        ]

    async def prompt(self, name: str, arguments: Mapping[str, str], asked: Asked) -> PromptAnswer:
        def user(*blocks: Mapping[str, Any]) -> PromptAnswer:
            return PromptAnswer([{"role": "user", "content": block} for block in blocks])

        match name:
            case "test_simple_prompt":
                return user(a_text("This is a simple prompt for testing."))
            case "test_prompt_with_arguments":
                one, two = (arguments[key] for key in ("arg1", "arg2"))
                return user(a_text(f"Prompt with arguments: arg1='{one}', arg2='{two}'"))
            case "test_prompt_with_embedded_resource":
                document = {
                    "uri": arguments["resourceUri"],
                    "mimeType": "text/plain",
                    "text": "Embedded resource content for testing.",
                }
                return user(
                    {"type": "resource", "resource": document},
                    a_text("Please process the embedded resource above."),
                )
            case "test_prompt_with_image":
                return user(
                    {"type": "image", "data": PIXEL, "mimeType": "image/png"},
                    a_text("Please analyze the image above."),
                )
            case "test_input_required_result_prompt":
                question = form("What context should it use?", wants(context=STRING))
                found = await asked.ask({"user_context": question})
                return user(
                    a_text(f"Use the following context: {given(found['user_context'], 'context')}")
                )
        return await super().prompt(name, arguments, asked)


def tool(name: str, run: Run, schema: Mapping[str, Any] = NOTHING, **more: Any) -> ToolDefinition:
    return ToolDefinition(
        name=name, description=f"Fixture {name}.", input_schema=schema, run=run, **more
    )


async def never(arguments: Mapping[str, Any], asked: Asked) -> ToolAnswer:
    raise AssertionError("it has answered at once")


CONFIRM = wants(ok={"type": "boolean"})
STATUSES = ["active", "inactive", "pending"]
DEFAULTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": STATUSES, "default": "active"},
        "verified": {"type": "boolean", "default": True},
    },
}
ENUMS = wants(
    untitledSingle={"type": "string", "enum": ["option1", "option2", "option3"]},
    titledSingle={
        "type": "string",
        "oneOf": [{"const": f"value{n}", "title": f"Option {n}"} for n in (1, 2, 3)],
    },
    legacyEnum={
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    untitledMulti={
        "type": "array",
        "items": {"type": "string", "enum": ["option1", "option2", "option3"]},
    },
    titledMulti={
        "type": "array",
        "items": {"anyOf": [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]},
    },
)
JSON_SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": STRING, "city": STRING},
        }
    },
    "properties": {
        "name": STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": STRING,
        "email": STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def _no_stdio(options: Mapping[str, Any]) -> None:
    raise NotImplementedError("the suite asks over HTTP")


conformance = Entry(lambda context: Fixtures(), _no_stdio)
