"""Answers to exactly the same request, kept on disk: an evaluation that is run again costs nothing.

Off unless the setting `model_cache_bytes` gives it room. Files lie below the state's directory, for
their owner's eyes only: they hold what models said, not what was asked. The oldest goes first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from agent_runtime.messages import Message, ModelUsage
from agent_runtime.models import forms
from agent_runtime.ports.model import ModelAnswer, ModelRequest
from agent_runtime.types import Json

FORMAT: Final = 1
"""Of the files and of the hash: with another number nothing older is found."""
_KEPT_PART: Final = 0.8
"""Of the room, when it had to be made."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AnswerCache:
    """Files in `directory`, `bytes_max` together. Its methods block."""

    directory: str
    bytes_max: int

    def get(self, request_hash: str) -> ModelAnswer | None:
        """The answer that this very request had, marked as costing nothing; else None."""
        path = self._path(request_hash)
        try:
            with open(path, "rb") as file:
                answer = decode_answer(msgspec.json.decode(file.read()))
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, KeyError, TypeError) as error:
            log.warning("a kept answer is not readable, and is asked for again: %s", error)
            return None
        return replace(answer, usage=ModelUsage(), usd=0.0, cached=True)

    def put(self, request_hash: str, answer: ModelAnswer) -> None:
        """Keep an answer, unless it was cut."""
        if answer.stop == "length":
            return
        data = msgspec.json.encode(encode_answer(answer))
        path = self._path(request_hash)
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=self.directory)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                os.replace(partial, path)
            except OSError:
                with suppress(OSError):
                    os.unlink(partial)
                raise
            self._make_room()
        except OSError as error:
            log.warning("an answer could not be kept in %s: %s", self.directory, error.strerror)

    def _path(self, request_hash: str) -> str:
        return os.path.join(self.directory, request_hash[:2], f"{request_hash}.json")

    def _make_room(self) -> None:
        found: list[tuple[int, int, str]] = []
        for place, _, names in os.walk(self.directory):
            for name in names:
                with suppress(OSError):  # another process makes room, too
                    path = os.path.join(place, name)
                    state = os.stat(path)
                    found.append((state.st_mtime_ns, state.st_size, path))
        total = sum(size for _, size, _ in found)
        if total <= self.bytes_max:
            return
        for _, size, path in sorted(found):
            with suppress(OSError):
                os.unlink(path)
            total -= size
            if total <= self.bytes_max * _KEPT_PART:
                return


def request_json(request: ModelRequest) -> dict[str, Json]:
    """All of a request that its answer depends on."""
    return {
        "format": FORMAT,
        "model": request.model.name,
        "provider": request.model.provider,
        "system": request.system,
        "tools": [[tool.name, tool.description, dict(tool.parameters)] for tool in request.tools],
        "answer_schema": None if request.answer_schema is None else dict(request.answer_schema),
        "output_tokens_max": request.output_tokens_max,
        "messages": [msgspec.to_builtins(message) for message in request.messages],
    }


def hash_of(value: Json) -> str:
    """SHA-256 of a JSON value, in hex."""
    return hashlib.sha256(forms.encode(value)).hexdigest()


def encode_answer(answer: ModelAnswer) -> dict[str, Json]:
    """An answer as JSON."""
    return {
        "message": msgspec.to_builtins(answer.message),
        "stop": answer.stop,
        "usage": msgspec.to_builtins(answer.usage),
        "usd": answer.usd,
        "model": answer.model,
    }


def decode_answer(value: Mapping[str, Json]) -> ModelAnswer:
    """The answer back."""
    return ModelAnswer(
        message=msgspec.convert(value["message"], Message),
        stop=value["stop"],
        usage=msgspec.convert(value["usage"], ModelUsage),
        usd=value["usd"],
        model=value["model"],
    )
