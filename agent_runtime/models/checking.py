"""Asking a provider whether it is there, takes the key, and has a model. It costs nothing."""

from __future__ import annotations

from dataclasses import dataclass

from agent_runtime.errors import ConfigError
from agent_runtime.models import forms
from agent_runtime.models.anthropic import headers as anthropic_headers
from agent_runtime.models.faults import Failed
from agent_runtime.models.http import Http
from agent_runtime.models.providers import Provider, Providers, Resolved, Unusable
from agent_runtime.ports.model import ModelFaultKind

CHECK_SECONDS_MAX = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a provider said. `kind` is empty if it is well."""

    kind: ModelFaultKind | str = ""
    message: str = ""
    models: tuple[str, ...] = ()
    """The first page of those that it lists."""


async def check(providers: Providers, provider: Provider, http: Http) -> Checked:
    """List the models of a provider."""
    try:
        endpoint = providers.endpoint(Resolved(name="", model="", provider=provider))
    except (ConfigError, Unusable) as error:
        return Checked(kind="auth", message=str(error))
    if provider.wire == "anthropic":
        url, headers = f"{provider.url}/v1/models?limit=1000", anthropic_headers(endpoint)
    else:
        url = f"{provider.url}/models"
        headers = endpoint.bearer
    try:
        async with http.exchange(
            provider.url, url, headers, None, silence_seconds=CHECK_SECONDS_MAX
        ) as exchange:
            listed = forms.answer_object(provider.url, await exchange.whole()).get("data")
    except Failed as failed:
        fault = failed.fault(endpoint.key)
        return Checked(kind=fault.kind, message=fault.message)
    names = [forms.text_of(forms.record(each).get("id")) for each in listed or ()]
    return Checked(models=tuple(name.removeprefix("models/") for name in names if name))
