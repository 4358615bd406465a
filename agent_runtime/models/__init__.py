"""Models: who thinks for a task, and how it is asked. `open_model` gives the `ports.Model`.

Reading order: `router` (who is asked, what it costs), `providers` (from a name to an address and a
key), `anthropic`, `openai` and `responses` (the wires, pure but for one function each), `turn` (one
request), `http` (connections and their faults), `faults` (providers' errors in our words), `forms`
and `schemas` (what the wires share), `sse`; `prices`, `health`, `cache`, `local`, `checking`;
`recorded` (replay), `pydantic_ai` (optional).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from agent_runtime import plugins
from agent_runtime.models.cache import AnswerCache
from agent_runtime.models.providers import Providers
from agent_runtime.models.router import Router
from agent_runtime.settings import Settings, state_dir

__all__ = ["Router", "open_model"]


def open_model(settings: Settings, environ: Mapping[str, str] | None = None) -> Router:
    """The models of an installation, as a context that closes their connections at its end.

    It starts nothing and reads no key before a model is asked.
    """
    cache = AnswerCache(
        os.path.join(state_dir(settings), "models", "answers"), settings.model_cache_bytes
    )
    return Router(
        Providers(
            os.environ if environ is None else environ,
            keys=settings.model_keys,
            endpoints=settings.model_endpoints,
            plug_in=lambda name: plugins.load_one(plugins.MODELS, name, allowed=settings.plugins),
        ),
        model=settings.model,
        fallbacks=settings.model_fallbacks,
        cache=cache if settings.model_cache_bytes else None,
    )
