"""Finds the endpoint of a path without looking at every route.

Starlette tries its routes in their order, 0.8 us each: with sixty of them the last costs as much as
all the rest of a small request. Here a path is looked up by its fixed parts, once for each way in
which paths of that length have parameters (there are at most four). What is not found is left to
the router behind it.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent_runtime.api.answers import Receive, Reply, Scope, Send

_Places = tuple[int, ...]
"""Which segments of a path are parameters."""


class Dispatch:
    """An ASGI application before `otherwise`."""

    def __init__(self, endpoints: Mapping[str, Reply], otherwise: Reply) -> None:
        """`endpoints` by their templates: `/v1/tasks/{task_id}/events`."""
        self._otherwise = otherwise
        self._fixed: dict[str, Reply] = {}
        self._shapes: dict[int, dict[_Places, dict[str, tuple[Reply, tuple[str, ...]]]]] = {}
        for template, endpoint in endpoints.items():
            segments = template.split("/")
            places = tuple(at for at, part in enumerate(segments) if part.startswith("{"))
            if not places:
                self._fixed[template] = endpoint
                continue
            names = tuple(segments[at].strip("{}") for at in places)
            of_length = self._shapes.setdefault(len(segments), {})
            of_length.setdefault(places, {})[_fixed_parts(segments, places)] = (endpoint, names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with `path_params`."""
        if scope["type"] == "http" and (found := self.find(scope["path"])) is not None:
            scope["path_params"] = found[1]
            await found[0](scope, receive, send)
            return
        await self._otherwise(scope, receive, send)

    def find(self, path: str) -> tuple[Reply, dict[str, str]] | None:
        """The endpoint of a path, and the path's parameters."""
        endpoint = self._fixed.get(path)
        if endpoint is not None:
            return endpoint, {}
        segments = path.split("/")
        for places, known in self._shapes.get(len(segments), {}).items():
            if (found := known.get(_fixed_parts(segments, places))) is not None:
                values = [segments[at] for at in places]
                if all(values):
                    return found[0], dict(zip(found[1], values, strict=True))
        return None


def _fixed_parts(segments: list[str], places: _Places) -> str:
    """The path with nothing in the place of its parameters."""
    return "/".join(["" if at in places else part for at, part in enumerate(segments)])
