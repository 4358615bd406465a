"""From a model's name to who is asked: wire, address, key, context size and price.

`anthropic/claude-…`, `openai/gpt-…`, `gemini/…`, `ollama/…` and other known names; `http(s)://host/v1#name`
for any server that speaks chat completions; names of the installation's own (`model_endpoints`). A
key goes to the address that it belongs to and to no other: a task may name any address, and never
gets a key for it.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final, Literal, cast
from urllib.parse import urlsplit

from agent_runtime import model_names
from agent_runtime.errors import PluginError
from agent_runtime.messages import ModelChoice
from agent_runtime.models.endpoints import Endpoint, Wire
from agent_runtime.ports.model import ModelAnswer, ModelFault, ModelRequest
from agent_runtime.schema import nearest
from agent_runtime.secret_sources import read_secret

LOCAL_CONTEXT_TOKENS: Final = 32_768
"""Of a model that nobody knows: a server of one's own is often set to less than 128 000."""
PYDANTIC_AI: Final = "pydantic-ai"
_KEY = re.compile(r"[\x21-\x7e]+\Z")


Ask = Callable[[ModelRequest, str], Awaitable[ModelAnswer | ModelFault]]
"""A plug-in of the group `agent_runtime.models`: gets a request and what stands behind the slash of
the model's name, asks once, and puts every failure into a fault. Costs are worked out here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Somebody who answers for models."""

    name: str
    url: str
    wire: Wire = "openai"
    key_variables: tuple[str, ...] = ()
    """The first that is there counts."""
    key_needed: bool = True
    prices: str = ""
    """Its id in the tables of genai-prices; empty: they are asked by address."""
    default: str = ""
    """The model for tasks that name none, if there is a key."""
    url_variable: str = ""
    """Of the environment, as its own tools read it."""
    ask: Ask | None = None
    """A plug-in that asks in its own way; then `url` only tells who."""


KNOWN: Final = (
    Provider(
        name="anthropic", wire="anthropic", url="https://api.anthropic.com", prices="anthropic",
        key_variables=("ANTHROPIC_API_KEY",), url_variable="ANTHROPIC_BASE_URL",
        default="claude-sonnet-5-5",
    ),
    Provider(
        name="openai", wire="responses", url="https://api.openai.com/v1", prices="openai",
        key_variables=("OPENAI_API_KEY",), url_variable="OPENAI_BASE_URL", default="gpt-6.1-sol",
    ),
    Provider(
        name="gemini", url="https://generativelanguage.googleapis.com/v1beta/openai",
        prices="google", key_variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        default="gemini-3.8-flash",
    ),
    Provider(
        name="openrouter", url="https://openrouter.ai/api/v1", prices="openrouter",
        key_variables=("OPENROUTER_API_KEY",),
    ),
    Provider(
        name="mistral", url="https://api.mistral.ai/v1", prices="mistral",
        key_variables=("MISTRAL_API_KEY",),
    ),
    Provider(
        name="groq", url="https://api.groq.com/openai/v1", prices="groq",
        key_variables=("GROQ_API_KEY",),
    ),
    Provider(
        name="deepseek", url="https://api.deepseek.com/v1", prices="deepseek",
        key_variables=("DEEPSEEK_API_KEY",),
    ),
    Provider(
        name="xai", url="https://api.x.ai/v1", prices="x-ai", key_variables=("XAI_API_KEY",),
    ),
    Provider(
        name="ollama", url="http://127.0.0.1:11434/v1", key_needed=False,
        key_variables=("OLLAMA_API_KEY",), url_variable="OLLAMA_HOST",
    ),
)  # fmt: skip
"""In the order in which their keys are looked for."""


class Unusable(Exception):
    """This model cannot be asked here; the message says what would help, and holds no key."""

    def __init__(self, message: str, kind: Literal["auth", "not_found"] = "not_found") -> None:
        super().__init__(message)
        self.kind: Final = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A model's name, and who answers for it."""

    name: str
    model: str
    provider: Provider

    @property
    def identity(self) -> str:
        """See `ModelChoice.provider`."""
        if self.provider.ask is not None:
            return self.provider.url
        return f"{self.provider.wire}:{self.provider.url}"


KeyState = Literal["present", "missing", "not needed"]


class Providers:
    """Everything that this installation can ask. Keys are read when they are used, never kept."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        keys: Mapping[str, str] | None = None,
        endpoints: Mapping[str, str] | None = None,
        plug_in: Callable[[str], object] | None = None,
    ) -> None:
        """`keys`: variable to source, see `secret_sources`; `endpoints`: name to address; `plug_in`
        gives the `Ask` of that name, or raises `PluginError`."""
        self._environ = environ
        self._plug_in = plug_in
        self._asks: dict[str, Ask] = {}
        self._sources = dict(keys or {})
        self.all: Final = {
            **{each.name: self._where(each, endpoints or {}) for each in KNOWN},
            **{
                name: _own(name, url)
                for name, url in (endpoints or {}).items()
                if name not in {each.name for each in KNOWN}
            },
        }

    def resolve(self, name: str) -> Resolved:
        """Who answers for a model.

        Raises:
            Unusable: nobody is called so, or there is no key.
        """
        parsed = model_names.parse(name)
        if parsed is None:
            fault = model_names.fault_of(name) or "names no model"
            raise Unusable(f"the model's name {fault}")
        if parsed.url:
            return Resolved(name=name, model=parsed.model, provider=self._at(parsed.url))
        provider = self.all.get(parsed.provider) or self._plugged(parsed.provider, parsed.model)
        if self.key_state(provider) == "missing":
            raise Unusable(
                f"there is no key for {name!r}: set {provider.key_variables[0]}, or say in the "
                "setting `model_keys` where it is",
                "auth",
            )
        return Resolved(name=name, model=parsed.model, provider=provider)

    def endpoint(self, resolved: Resolved) -> Endpoint:
        """Where to send a request, with its key. Blocks for as long as a key's source may.

        Raises:
            ConfigError: the key cannot be read; names its source.
            Unusable: it is no key.
        """
        provider = resolved.provider
        source = self.key_source(provider)
        key = ""
        if source is not None:
            variable, where = source
            key = read_secret(variable, where, self._environ).strip()
            if not _KEY.match(key):
                raise Unusable(
                    f"the key {variable} has characters that no key has (spaces, line ends, "
                    "letters beyond ASCII): look at its source",
                    "auth",
                )
        return Endpoint(wire=provider.wire, url=provider.url, model=resolved.model, key=key)

    def key_source(self, provider: Provider) -> tuple[str, str] | None:
        """The variable and the source of a provider's key; None if there is none."""
        for variable in provider.key_variables:
            if variable in self._sources:
                return variable, self._sources[variable]
            if self._environ.get(variable):
                return variable, f"env:{variable}"
        return None

    def key_state(self, provider: Provider) -> KeyState:
        """Is there a key? A command that would give one is not run for that."""
        source = self.key_source(provider)
        if source is not None:
            kind, _, rest = source[1].partition(":")
            there = {"env": bool(self._environ.get(rest)), "file": os.access(rest, os.R_OK)}
            if there.get(kind, True):
                return "present"
        return "missing" if provider.key_needed else "not needed"

    def choice(self, resolved: Resolved) -> ModelChoice:
        """What the loop must know of a model. The first call loads the tables of prices."""
        # Some 0.3 s: only who looks for a model pays that.
        from agent_runtime.models import prices

        url = resolved.provider.url
        free = is_local(url)
        known = prices.look_up(price_model(resolved), provider=resolved.provider.prices, url=url)
        context = known.context_tokens or (
            ModelChoice(name="").context_tokens
            if resolved.provider.prices
            else LOCAL_CONTEXT_TOKENS
        )
        asked, answered = known.input_usd_per_mtok, known.output_usd_per_mtok
        return ModelChoice(
            name=resolved.name,
            provider=resolved.identity,
            context_tokens=context,
            output_tokens_max=prices.output_tokens(resolved.model, context),
            input_usd_per_mtok=0.0 if free else asked or 0.0,
            output_usd_per_mtok=0.0 if free else answered or 0.0,
            priced=free or not (asked is None and answered is None),
        )

    def _where(self, provider: Provider, endpoints: Mapping[str, str]) -> Provider:
        """A known provider at the address that the installation gives it."""
        said = endpoints.get(provider.name) or self._environ.get(provider.url_variable, "")
        if not said:
            return provider
        if provider.name == "ollama" and provider.name not in endpoints:
            return _changed(provider, _ollama_url(said))
        return _changed(provider, said)

    def _plugged(self, name: str, model: str) -> Provider:
        """The provider that a plug-in is.

        Raises:
            Unusable: there is none of that name, or it cannot be used.
        """
        if name == PYDANTIC_AI:
            _check_pydantic_ai(model)
        ask = self._asks.get(name)
        try:
            if ask is None and self._plug_in is not None:
                # What else it is, is found out when it is called: then it is an internal fault.
                ask = self._asks[name] = cast(Ask, self._plug_in(name))
        except PluginError as error:
            if not str(error).startswith("no plug-in"):
                raise Unusable(str(error)) from None
        if not callable(ask):
            guess = nearest(name, self.all)
            hint = f"; did you mean '{guess}/{model}'?" if guess else ""
            raise Unusable(
                f"no provider is called {name!r}{hint} (known: {', '.join(self.all)}); a server of "
                "your own is http://host/v1#name, or gets a name in `model_endpoints`"
            )
        place = model.partition(":")[0] if name == PYDANTIC_AI else name
        return Provider(
            name=name, url=f"{name}:{place}", key_needed=False, ask=ask,
            prices=_PYDANTIC_AI_PRICES.get(place, place),
        )  # fmt: skip

    def _at(self, url: str) -> Provider:
        """Who answers at an address that a task names: with a key only if it is a known one's."""
        for provider in self.all.values():
            if provider.url == url and self.key_state(provider) != "missing":
                return provider
        return Provider(name="", url=url, key_needed=False)


def is_local(url: str) -> bool:
    """Is it a server of one's own, on this machine or a private network?"""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return False
    host = parts.hostname or ""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return host == "localhost" or "." not in host


def price_model(resolved: Resolved) -> str:
    """The model's name as tables of prices have it."""
    if resolved.provider.name == PYDANTIC_AI:
        return resolved.model.partition(":")[2]
    return resolved.model


def _own(name: str, url: str) -> Provider:
    wire, plain = _wired(url)
    variable = re.sub(r"[^A-Z0-9]", "_", name.upper()) + "_API_KEY"
    return Provider(name=name, wire=wire, url=plain, key_variables=(variable,), key_needed=False)


def _changed(provider: Provider, url: str) -> Provider:
    """A known provider somewhere else. Of OpenAI's two wires others know the older one."""
    wire, plain = _wired(url, "anthropic" if provider.wire == "anthropic" else "openai")
    if plain == provider.url and "+" not in url:
        return provider
    return replace(provider, url=plain, wire=wire, key_needed=False)


def _wired(url: str, wire: Wire = "openai") -> tuple[Wire, str]:
    """The wire that stands before an address, and the address."""
    for named in model_names.WIRES:
        if url.startswith(f"{named}+"):
            wire, url = named, url.removeprefix(f"{named}+")
    url = url.rstrip("/")
    return wire, url.removesuffix("/v1") if wire == "anthropic" else url


def _ollama_url(host: str) -> str:
    """`OLLAMA_HOST` as Ollama reads it, as an address to connect to."""
    parts = urlsplit(host if "://" in host else f"http://{host}")
    name = parts.hostname or "127.0.0.1"
    name = "127.0.0.1" if name in ("0.0.0.0", "::") else name
    try:
        port = parts.port or 11434
    except ValueError:
        port = 11434
    return f"{parts.scheme}://{f'[{name}]' if ':' in name else name}:{port}/v1"


_PYDANTIC_AI_PRICES: Final = {
    "google-gla": "google", "google-vertex": "google", "grok": "x-ai", "openai-chat": "openai",
    "openai-responses": "openai",
}  # fmt: skip


def _check_pydantic_ai(model: str) -> None:
    if importlib.util.find_spec("pydantic_ai") is None:
        raise Unusable(
            "pydantic-ai is not installed: install agent-runtime[pydantic-ai], and the client of "
            "the provider that you want, such as pydantic-ai-slim[groq]"
        )
    place, colon, name = model.partition(":")
    if not (place and colon and name):
        raise Unusable(f"pydantic-ai wants provider:model, got {model!r}")
