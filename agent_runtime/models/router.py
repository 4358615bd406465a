"""The brain of tasks: who can think for one, and one turn of asking. Implements `ports.Model`.

It neither retries nor falls over to another model: the loop does both, by its table. What a turn
cost is worked out here, the same for every wire.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
from anyio.to_thread import run_sync

from agent_runtime import model_names
from agent_runtime.errors import ConfigError
from agent_runtime.messages import Brain, ModelChoice, ModelUsage
from agent_runtime.models.cache import AnswerCache, hash_of, request_json
from agent_runtime.models.endpoints import Endpoint
from agent_runtime.models.faults import redacted
from agent_runtime.models.health import Breaker
from agent_runtime.models.providers import (
    KNOWN,
    Providers,
    Resolved,
    Unusable,
    is_local,
    price_model,
)
from agent_runtime.ports.model import ModelAnswer, ModelFault, ModelRequest
from agent_runtime.types import TaskSpec

if TYPE_CHECKING:
    # httpx2 costs 0.1 s, and most commands ask no model: it is imported by the first that does.
    from agent_runtime.models.http import Http, Patience

log = logging.getLogger(__name__)

NO_PLAN: Final = (
    "give the task a plan (`plan:` in its file): a plan whose steps all name tools needs no model"
)
CLIENT_OFFER: Final = "let a connected program decide: `model: client`"


class Router:
    """Models by their names. Use it as a context, or `close` it."""

    def __init__(
        self,
        providers: Providers,
        *,
        model: str | None = None,
        fallbacks: Sequence[str] = (),
        cache: AnswerCache | None = None,
        local_places: Sequence[str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`model`: for tasks that name none; `fallbacks`: tried in this order after the task's."""
        self.providers: Final = providers
        self._model = model
        self._fallbacks = tuple(fallbacks)
        self._cache = cache
        self._local_places = local_places
        self._patience = patience
        self._breakers: dict[str, Breaker] = {}
        self._http: Http | None = None

    # ---- who thinks --------------------------------------------------------------------------

    async def find(self, task: TaskSpec) -> Brain:
        """Who can think for a task: what it names, the setting, else the first key that is there.

        Of what is named explicitly nothing else is taken: without its key there is no brain.
        """
        if task.model is not None:
            return await self._named(task.model, why="the task names it")
        if self._model is not None:
            return await self._named(self._model, why="the setting `model`")
        for provider in KNOWN:
            here = self.providers.all[provider.name]
            if here.default and self.providers.key_state(here) == "present":
                source = self.providers.key_source(here)
                assert source is not None
                return await self._named(f"{here.name}/{here.default}", why=f"the key {source[0]}")
        return Brain(
            kind="none",
            why="neither the task nor a setting names a model, and there is no key",
            offers=(*_key_offers(), *await self._local_offers(), CLIENT_OFFER, NO_PLAN),
        )

    async def _named(self, name: str, *, why: str) -> Brain:
        if name == model_names.CLIENT:
            return Brain(kind="client", why=why)
        if model_names.is_harness(name):
            offers = (*_key_offers(), CLIENT_OFFER, NO_PLAN)
            return Brain(
                kind="none", offers=offers, why=f"{name!r} is an external agent: not there yet"
            )
        try:
            first = self.providers.resolve(name)
        except Unusable as error:
            return Brain(
                kind="none",
                why=str(error),
                offers=(
                    str(error), "name another model: `agent-runtime models` lists what can be used",
                    *await self._local_offers(), CLIENT_OFFER, NO_PLAN,
                ),
            )  # fmt: skip
        usable, left_out = [first], []
        for fallback in self._fallbacks:
            try:
                resolved = self.providers.resolve(fallback)
            except Unusable as error:
                left_out.append(f"{fallback} is left out ({error})")
                continue
            if all(resolved.name != each.name for each in usable):
                usable.append(resolved)
        # The tables of prices take a while to load.
        choices = await run_sync(lambda: tuple(map(self.providers.choice, usable)))
        return Brain(kind="model", models=choices, why="; ".join([why, *left_out]))

    async def _local_offers(self) -> list[str]:
        from agent_runtime.models import local

        places = local.PLACES if self._local_places is None else self._local_places
        return [server.offer() for server in await local.look(self.http, places)]

    # ---- one turn ----------------------------------------------------------------------------

    async def complete(self, request: ModelRequest) -> ModelAnswer | ModelFault:
        """Ask once. Whatever goes wrong comes back as a fault."""
        try:
            resolved = self.providers.resolve(request.model.name)
        except Unusable as error:
            return ModelFault(kind=error.kind, message=str(error))
        # The installation may have moved it since it was chosen; blocks belong to the place.
        choice = msgspec.structs.replace(request.model, provider=resolved.identity)
        request = replace(request, model=choice)
        hashed = hash_of(request_json(request)) if self._cache is not None else ""
        if self._cache is not None and (kept := await run_sync(self._cache.get, hashed)):
            if request.heard is not None and kept.message.text:
                request.heard(kept.message.text)
            return kept
        result = await self._asked(request, resolved)
        if self._cache is not None and isinstance(result, ModelAnswer):
            await run_sync(self._cache.put, hashed, result)
        return result

    async def _asked(self, request: ModelRequest, resolved: Resolved) -> ModelAnswer | ModelFault:
        try:
            endpoint = await run_sync(self.providers.endpoint, resolved)
        except (ConfigError, Unusable) as error:
            return ModelFault(kind="auth", message=str(error))
        breaker = self._breakers.setdefault(resolved.identity, Breaker(resolved.identity))
        if (refusal := breaker.refusal()) is not None:
            return refusal
        with breaker.trial() as trial:
            trial.result = await self._sent(request, resolved, endpoint)
        return await self._charged(trial.result, request.model, resolved)

    async def _sent(
        self, request: ModelRequest, resolved: Resolved, endpoint: Endpoint
    ) -> ModelAnswer | ModelFault:
        try:
            if resolved.provider.ask is not None:
                return await resolved.provider.ask(request, resolved.model)
            if endpoint.wire == "anthropic":
                from agent_runtime.models.anthropic import ask as ask_anthropic

                return await ask_anthropic(request, endpoint, self.http)
            if endpoint.wire == "responses":
                from agent_runtime.models.responses import ask as ask_responses

                return await ask_responses(request, endpoint, self.http)
            from agent_runtime.models.openai import ask as ask_openai

            return await ask_openai(request, endpoint, self.http)
        except Exception as error:  # noqa: BLE001 - one request's border; it is told, and a fault
            told = redacted("".join(traceback.format_exception(error)), endpoint.key)
            log.error("the adapter of %s failed:\n%s", resolved.name, told)
            return ModelFault(
                kind="internal",
                message=f"the adapter of {resolved.name!r} failed: {type(error).__name__}; "
                "the log of the runtime has more",
            )

    async def _charged(
        self, result: ModelAnswer | ModelFault, choice: ModelChoice, resolved: Resolved
    ) -> ModelAnswer | ModelFault:
        """The result with its price."""
        if not result.usage.total or is_local(resolved.provider.url):
            return result
        return replace(result, usd=await run_sync(_usd, result.usage, choice, resolved))

    # ---- life --------------------------------------------------------------------------------

    @property
    def http(self) -> Http:
        """The client of all requests; made when it is first needed."""
        if self._http is None:
            from agent_runtime.models.http import Http, Patience

            self._http = Http(self._patience or Patience())
        return self._http

    def health(self) -> dict[str, str]:
        """How each provider that was asked is, by `ModelChoice.provider`."""
        return {place: breaker.state for place, breaker in sorted(self._breakers.items())}

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            with anyio.CancelScope(shield=True):
                await self._http.close()

    async def __aenter__(self) -> Router:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _usd(usage: ModelUsage, choice: ModelChoice, resolved: Resolved) -> float:
    from agent_runtime.models import prices

    provider = resolved.provider
    cost = prices.usd(usage, price_model(resolved), provider=provider.prices, url=provider.url)
    if cost is not None:
        return cost
    dear = usage.input * choice.input_usd_per_mtok + usage.output * choice.output_usd_per_mtok
    return dear / 1e6


def _key_offers() -> tuple[str, ...]:
    return tuple(
        f"set {provider.key_variables[0]}: tasks then use {provider.name}/{provider.default}"
        for provider in KNOWN
        if provider.default
    )
