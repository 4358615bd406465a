"""Looking at models: who would think, with which keys, at what price (`models`)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from msgspec import structs

from agent_runtime.cli.console import emit, json_option, note, run_loop, say, settings_of, table
from agent_runtime.cli.reach import remote_of
from agent_runtime.errors import UsageError
from agent_runtime.messages import Brain, ModelChoice
from agent_runtime.types import Json, TaskSpec

if TYPE_CHECKING:
    from agent_runtime.cli.remote import Remote
    from agent_runtime.models import Router
    from agent_runtime.models.providers import Provider


@click.command(
    short_help="List the models that tasks can use, with keys and prices.",
    epilog="""\b
Examples:
  agent-runtime models
  agent-runtime models --check
  agent-runtime models --json | jq '.brain.models[].name'
""",
)
@click.option(
    "--check",
    "asks",
    is_flag=True,
    help="Ask each provider that has a key which models it has. Costs nothing.",
)
@json_option
@click.pass_context
def models(ctx: click.Context, as_json: bool, asks: bool) -> int:
    """List who thinks for a task that names no model, and every provider with its key and address.

    Keys are never printed, only where they are. With --check it ends with 3 if a key is refused,
    and with 7 if a provider does not answer. If there is a daemon, it tells who thinks there.
    """
    if (remote := remote_of(ctx)) is not None:
        if asks:
            raise UsageError(
                "--check asks with the keys of this machine, not with the daemon's: use "
                "`agent-runtime --local models --check` where the daemon runs"
            )
        with remote:
            return _there(remote, as_json=as_json)
    from agent_runtime.models import open_model

    settings = settings_of(ctx)

    async def do() -> int:
        async with open_model(settings) as router:
            brain = await router.find(TaskSpec(goal="models"))
            providers = [_provider(router, each) for each in router.providers.all.values()]
            if asks:
                await _ask(router, providers)
            local = await _local(router)
        if as_json:
            emit({"brain": _brain(brain), "providers": providers, "local": local})
        else:
            _print(brain, providers, local)
        return _code(providers)

    return run_loop(do)


def _there(remote: Remote, *, as_json: bool) -> int:
    found = remote.client.models()
    models = [ModelChoice(**structs.asdict(model)) for model in found.models]
    brain = Brain(kind=found.brain, why=found.why, models=models, offers=found.offers)  # type: ignore[arg-type]  # the daemon's own words
    if as_json:
        emit({"brain": _brain(brain)})
    else:
        _print_brain(brain)
    return 0


def _provider(router: Router, provider: Provider) -> dict[str, Json]:
    source = router.providers.key_source(provider)
    return {
        "name": provider.name,
        "wire": provider.wire,
        "url": provider.url,
        "key": router.providers.key_state(provider),
        "key_from": source[1] if source else "",
        "key_variables": list(provider.key_variables),
        "default_model": provider.default,
        "state": "",
        "message": "",
        "models": [],
    }


async def _ask(router: Router, providers: list[dict[str, Json]]) -> None:
    # It imports the HTTP client, which a mere list does not need.
    import anyio

    from agent_runtime.models.checking import check

    async def one(shown: dict[str, Json]) -> None:
        found = await check(router.providers, router.providers.all[shown["name"]], router.http)
        shown["state"] = found.kind or "well"
        shown["message"] = found.message
        shown["models"] = list(found.models)

    async with anyio.create_task_group() as tasks:
        for shown in providers:
            if shown["key"] != "missing":
                tasks.start_soon(one, shown)


async def _local(router: Router) -> list[dict[str, Json]]:
    from agent_runtime.models import local

    return [asdict(server) for server in await local.look(router.http)]


def _brain(brain: Brain) -> dict[str, Json]:
    return {
        "kind": brain.kind,
        "why": brain.why,
        "models": [_choice(choice) for choice in brain.models],
        "offers": list(brain.offers),
    }


def _choice(choice: ModelChoice) -> dict[str, Json]:
    return {
        "name": choice.name,
        "provider": choice.provider,
        "context_tokens": choice.context_tokens,
        "output_tokens_max": choice.output_tokens_max,
        "input_usd_per_mtok": choice.input_usd_per_mtok,
        "output_usd_per_mtok": choice.output_usd_per_mtok,
        "priced": choice.priced,
    }


def _print_brain(brain: Brain) -> None:
    if brain.models:
        say(f"tasks that name no model use ({brain.why}):")
        rows = [
            (choice.name, f"{choice.context_tokens:,}", *_prices(choice), choice.provider)
            for choice in brain.models
        ]
        table(rows, heads=("MODEL", "TOKENS", "$/M IN", "$/M OUT", "AT"))
    else:
        say(f"tasks that name no model wait: {brain.why}" if brain.kind == "none" else brain.why)
        for offer in brain.offers:
            say(f"  {offer}")


def _print(brain: Brain, providers: list[dict[str, Json]], local: list[dict[str, Json]]) -> None:
    _print_brain(brain)
    say()
    listed = [
        (
            each["name"],
            _key(each),
            each["default_model"] or "-",
            each["url"],
            _state(each),
        )
        for each in providers
    ]
    table(listed, heads=("PROVIDER", "KEY", "DEFAULT", "ADDRESS", "STATE"))
    for each in providers:
        if each["message"]:
            note(f"{each['name']}: {each['message']}")
    _note_unlisted(brain, providers)
    for server in local:
        say(f"on this machine: {server['url']} with {', '.join(server['models']) or 'no model'}")


def _prices(choice: ModelChoice) -> tuple[str, str]:
    """The dearest that may apply."""
    if not choice.priced:
        return "unknown", "unknown"
    return f"{choice.input_usd_per_mtok:g}", f"{choice.output_usd_per_mtok:g}"


def _key(each: dict[str, Json]) -> str:
    if each["key"] == "present":
        return str(each["key_from"])
    return f"set {each['key_variables'][0]}" if each["key"] == "missing" else "not needed"


def _state(each: dict[str, Json]) -> str:
    if each["state"] != "well":
        return str(each["state"] or "-")
    return f"well, {len(each['models'])} models"


def _note_unlisted(brain: Brain, providers: list[dict[str, Json]]) -> None:
    """A model that its provider does not list will not answer."""
    for choice in brain.models:
        provider, _, name = choice.name.partition("/")
        for each in providers:
            if each["name"] == provider and each["models"] and name not in each["models"]:
                note(f"{provider} does not list {name!r}; it has: {', '.join(each['models'][:20])}")


def _code(providers: list[dict[str, Json]]) -> int:
    """Of providers with a key; the others were not chosen by anybody."""
    states = {each["state"] for each in providers if each["key"] == "present"} - {"", "well"}
    if states & {"auth", "not_found"}:
        return 3
    return 7 if states else 0
