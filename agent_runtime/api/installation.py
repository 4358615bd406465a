"""What is installed: tools, modules, models."""

from __future__ import annotations

from agent_runtime.api.answers import Reply, json_answer
from agent_runtime.api.operations import Request, operation
from agent_runtime.api.views import (
    ModelList,
    ModelView,
    ModuleList,
    ModuleView,
    ToolList,
    ToolView,
)
from agent_runtime.types import EffectPolicy, TaskSpec


@operation("GET", "/v1/tools", answers={200: ToolList}, scope="tasks:read")
async def list_tools(request: Request[None, None]) -> Reply:
    """List the tools that tasks can use."""
    toolbox = request.daemon.runtime.ports.toolbox
    listed = []
    for info in toolbox.all():
        try:
            effect = toolbox.get(info.name).effect({}, EffectPolicy()).value
        except Exception:  # noqa: BLE001 - a tool that needs its arguments for the answer
            effect = "by arguments"
        listed.append(
            ToolView(
                name=info.name, toolbelt=info.toolbelt, where=info.where, effect=effect,
                description=info.description, source=info.source,
                parameters=dict(info.parameters),
            )
        )  # fmt: skip
    return json_answer(ToolList(listed))


@operation("GET", "/v1/modules", answers={200: ModuleList}, scope="tasks:read")
async def list_modules(request: Request[None, None]) -> Reply:
    """List the installed modules; one is started when a task first needs its toolbelt."""
    found = await request.daemon.modules()
    return json_answer(
        ModuleList([ModuleView(m.name, m.state, m.detail, m.description) for m in found])
    )


@operation("GET", "/v1/models", answers={200: ModelList}, scope="tasks:read")
async def list_models(request: Request[None, None]) -> Reply:
    """Tell who thinks for tasks that name no model. Nobody is asked for it."""
    model = request.daemon.runtime.ports.model
    if model is None:
        return json_answer(
            ModelList(brain="none", why="no model adapter is installed", models=[], offers=[])
        )
    brain = await model.find(TaskSpec(goal=""))
    models = [
        ModelView(
            name=m.name, provider=m.provider, context_tokens=m.context_tokens,
            output_tokens_max=m.output_tokens_max, input_usd_per_mtok=m.input_usd_per_mtok,
            output_usd_per_mtok=m.output_usd_per_mtok, priced=m.priced,
        )
        for m in brain.models
    ]  # fmt: skip
    return json_answer(
        ModelList(brain=brain.kind, why=brain.why, models=models, offers=list(brain.offers))
    )
