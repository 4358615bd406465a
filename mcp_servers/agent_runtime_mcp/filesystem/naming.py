"""The roots that a client names, and why some of them are refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from agent_runtime_mcp.filesystem.documents import path_of
from agent_runtime_mcp.filesystem.refusals import Refused
from agent_runtime_mcp.filesystem.roots import Roots

if TYPE_CHECKING:
    from agent_runtime.types import Json

ROOTS_MAX: Final = 100


def named_roots(answer: Mapping[str, Json], *, openat2: bool | None) -> Roots:
    """Roots from an answer to `roots/list`; what cannot be one is told in `refused`.

    Raises:
        Refused: none of them can be one; it says why of each.
    """
    given = answer.get("roots")
    wanted = [root.get("uri") for root in given if isinstance(root, Mapping)] if given else []
    paths: list[str] = []
    refused: list[str] = []
    for uri in wanted[:ROOTS_MAX]:
        try:
            path = path_of(uri) if isinstance(uri, str) else ""
            if not os.path.isdir(path):
                raise Refused(f"{uri!r} is no directory here")
            paths.append(path)
        except Refused as why:
            refused.append(f"root of the client refused: {why}")
    if len(wanted) > ROOTS_MAX:
        refused.append(f"only the first {ROOTS_MAX} of {len(wanted):,} roots are taken")
    if not paths:
        told = "; ".join(refused) or "it named none"
        raise Refused(f"no directory is allowed: the client was asked for its roots, but {told}")
    roots = Roots(paths, openat2=openat2)
    roots.refused = refused
    return roots
