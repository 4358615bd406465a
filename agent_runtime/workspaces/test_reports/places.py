"""Names of files as a test runner tells them, made relative to the checkout."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Places:
    """Where the checkout may be seen by those who run in it: inside, and on the host."""

    roots: tuple[str, ...]

    def relative(self, path: str) -> str:
        """`path` below the checkout, or as it is; empty for the checkout itself."""
        path = posixpath.normpath(path) if path else ""
        for root in self.roots:
            if path == root:
                return ""
            if path.startswith(root + "/"):
                return path[len(root) + 1 :]
        return path

    def prefix(self, directory: str) -> str | None:
        """What names that are relative to `directory` begin with; None if it is elsewhere."""
        relative = self.relative(directory)
        if posixpath.isabs(relative):
            return None
        return f"{relative}/" if relative else ""
