"""Model servers on this machine: they are looked for to be offered, never used unasked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from agent_runtime.models import forms
from agent_runtime.models.faults import Failed
from agent_runtime.models.http import Http

PLACES: Final = (
    "http://127.0.0.1:11434/v1",
    "http://127.0.0.1:8080/v1",
    "http://127.0.0.1:1234/v1",
)
"""Where Ollama, llama.cpp and LM Studio listen."""
SECONDS_MAX: Final = 0.3
_SHOWN_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A server that answered, and the models that it has."""

    url: str
    models: tuple[str, ...]

    def offer(self) -> str:
        """What to tell a person."""
        if not self.models:
            return f"a model server answers at {self.url}, but it has no model yet"
        more = len(self.models) - _SHOWN_MAX
        others = f" (or {', '.join(self.models[1:_SHOWN_MAX])}{' …' if more > 0 else ''})"
        return (
            f"a model server answers at {self.url}: name `{self.url}#{self.models[0]}` as model"
            + (others if len(self.models) > 1 else "")
        )


async def look(http: Http, places: Sequence[str] = PLACES) -> tuple[LocalServer, ...]:
    """The servers that answer within `SECONDS_MAX`, in the order of `places`."""
    found: dict[str, LocalServer] = {}

    async def ask(url: str) -> None:
        try:
            async with http.exchange(url, f"{url}/models", {}, None) as exchange:
                listed = forms.answer_object(url, await exchange.whole()).get("data")
        except Failed:
            return
        if isinstance(listed, list):
            names = [forms.text_of(forms.record(each).get("id")) for each in listed]
            found[url] = LocalServer(url, tuple(name for name in names if name))

    with anyio.move_on_after(SECONDS_MAX):
        async with anyio.create_task_group() as tasks:
            for url in places:
                tasks.start_soon(ask, url)
    return tuple(found[url] for url in places if url in found)
