"""Does a change reach for the program that judges it? A look at the text of changed sources.

Code under test runs in the process of its own test runner, and nothing that the process says can be
trusted once the code has taken it over. So a source file that begins to name the runner, or to end
the process by itself, is told and makes a verification fail. A heuristic: it names what is usual.
"""

from __future__ import annotations

import posixpath
import re

_NAMES = re.compile(
    rb"\b(_pytest|pytest|unittest|doctest|agent_runtime_reporting|os\._exit|_exit|os\.exec[lv]p?e?)\b"
)
SOURCES = (".py", ".pyi", ".pyx")
_TEST = re.compile(r"(^|/)(tests?|testing)/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$")


def reaches_for_runner(path: str, before: bytes, after: bytes) -> str | None:
    """The name that a changed Python source has now and had not before; tests may name it.

    A missing file has the content b"".
    """
    if posixpath.splitext(path)[1] not in SOURCES or _TEST.search(path):
        return None
    new = set(_NAMES.findall(after)) - set(_NAMES.findall(before))
    return min(new).decode() if new else None
