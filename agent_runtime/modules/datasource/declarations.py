"""What a source is declared as, by the operator or by a repository. Pure.

datasources:
  prices:
    description: Prices that the shop shows
    file: data/prices.csv            # or url: https://…
    kind: csv                        # else by the name: csv, json, jsonl, sqlite, text
    max_age: 1d                      # older is stale: 30s, 15m, 12h, 7d or seconds
    delimiter: ";"                   # csv only; else found
    bearer: env:PRICES_TOKEN         # url only, and the operator's only
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from agent_runtime.schema import nearest
from agent_runtime.types import Json

Kind = Literal["csv", "json", "jsonl", "sqlite", "text"]
Origin = Literal["operator", "repository"]

KINDS: Final = ("csv", "json", "jsonl", "sqlite", "text")
SOURCES_MAX: Final = 100
NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_KEYS: Final = ("description", "file", "url", "kind", "max_age", "delimiter", "bearer")
_SUFFIXES: Final[Mapping[str, Kind]] = {
    "csv": "csv", "tsv": "csv", "json": "json", "geojson": "json", "jsonl": "jsonl",
    "ndjson": "jsonl", "db": "sqlite", "sqlite": "sqlite", "sqlite3": "sqlite",
}  # fmt: skip
_TYPES: Final[Mapping[str, Kind]] = {
    "text/csv": "csv", "text/tab-separated-values": "csv", "application/json": "json",
    "application/x-ndjson": "jsonl", "application/jsonl": "jsonl",
    "application/vnd.sqlite3": "sqlite", "application/x-sqlite3": "sqlite",
}  # fmt: skip
_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE_MAX: Final = 100 * 365 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One source. Exactly one of `file` and `url` is there; `kind` empty: by name or by answer."""

    name: str
    origin: Origin
    description: str = ""
    file: str = ""
    url: str = ""
    kind: Kind | Literal[""] = ""
    max_age_seconds: float | None = None
    delimiter: str = ""
    bearer: str = ""
    """Where the operator's token is, as in the setting `secrets`; sent to this source only."""

    @property
    def location(self) -> str:
        """Where it is, for people."""
        return self.file or self.url


def parse(value: Json, *, origin: Origin, place: str) -> tuple[list[Declared], list[str]]:
    """The sources in a mapping from name to declaration, and everything that is wrong, in words.

    `place` is the file, for messages. A wrong source does not take the others with it.
    """
    if value is None:
        return [], []
    if not isinstance(value, dict):
        return [], [f"{place}: datasources: must be a mapping from name to source"]
    found: list[Declared] = []
    problems: list[str] = []
    for name, each in value.items():
        where = f"{place}: datasources.{name[:64]}"
        wrong = list(_problems(name, each, origin))
        if len(found) >= SOURCES_MAX:
            problems.append(f"{where}: there are more than {SOURCES_MAX} sources; join some")
            break
        problems += [f"{where}: {problem}" for problem in wrong]
        if not wrong:
            found.append(_made(name, each, origin))
    return found, problems


def kind_of(declared: Declared, content_type: str = "") -> Kind:
    """What it was declared as, else by its name, else by what the server says, else text."""
    if declared.kind:
        return declared.kind
    path = declared.file or urlsplit(declared.url).path
    suffix = path.rpartition("/")[2].rpartition(".")[2].lower()
    media = content_type.partition(";")[0].strip().lower()
    by_type = _TYPES.get(media) or ("json" if media.endswith("+json") else "text")
    return _SUFFIXES.get(suffix) or by_type


def seconds_of(age: Json) -> float | None:
    """`15m` in seconds; None if it is no age."""
    if isinstance(age, bool) or not isinstance(age, str | int | float):
        return None
    found = _AGE.fullmatch(str(age).strip())
    if found is None:
        return None
    seconds = float(found[1]) * _UNITS[found[2]]
    return seconds if 0 < seconds <= _AGE_MAX and math.isfinite(seconds) else None


def _problems(name: str, each: Json, origin: Origin) -> Iterator[str]:
    if not NAME.fullmatch(name):
        yield (
            f"the name {name[:64]!r} must be lower case letters, digits, - and _, a letter first, "
            "at most 64"
        )
    if not isinstance(each, dict):
        yield "must be a mapping that names a 'file' or a 'url'"
        return
    for key, value in each.items():
        if key not in _KEYS:
            guess = nearest(key, _KEYS)
            hint = f"; did you mean {guess!r}?" if guess else ""
            yield f"{key[:64]!r} is not a known key{hint} (known: {', '.join(_KEYS)})"
        elif key != "max_age" and not isinstance(value, str):
            yield f"{key}: must be a text, got {type(value).__name__}"
            return
    file, url = each.get("file"), each.get("url")
    if bool(file) == bool(url):
        yield f"must name either 'file' or 'url', got {'both' if file else 'neither'}"
    if file and "\0" in file:
        yield "file: holds a zero byte"
    if file and origin == "repository" and file.startswith(("/", "~")):
        yield f"file: {file!r} must be relative to the repository"
    if url and (problem := _url_problem(url)):
        yield f"url: {problem}"
    if each.get("kind") and each["kind"] not in KINDS:
        yield f"kind: must be one of {', '.join(KINDS)}, got {each['kind'][:40]!r}"
    if "max_age" in each and seconds_of(each["max_age"]) is None:
        got = str(each["max_age"])[:40]
        yield f"max_age: must be like 30s, 15m, 12h or 7d, above 0, got {got!r}"
    if len(each.get("delimiter") or ",") != 1 or each.get("delimiter") in ('"', "\n", "\r"):
        got = each["delimiter"][:40]
        yield f"delimiter: must be one character that is no quote, got {got!r}"
    if each.get("bearer") and origin == "repository":
        yield "bearer: a repository cannot ask for a credential; the operator's file can"
    if each.get("bearer") and not url:
        yield "bearer: is for a 'url'"


def _url_problem(url: str) -> str:
    if re.search(r"[\x00-\x20\x7f]", url) or not url.isascii():
        return f"{url[:200]!r} must be in ASCII without blanks: write %20, and a host as xn--…"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return f"{url[:200]!r} is no address: {error}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"{url[:200]!r} must begin with http:// or https:// and a host"
    if parts.username is not None:
        return "a user and password in the address end up in logs: use 'bearer'"
    return ""


def _made(name: str, each: Mapping[str, Json], origin: Origin) -> Declared:
    return Declared(
        name=name,
        origin=origin,
        description=" ".join((each.get("description") or "").split())[:300],
        file=each.get("file") or "",
        url=each.get("url") or "",
        kind=each.get("kind") or "",
        max_age_seconds=seconds_of(each["max_age"]) if "max_age" in each else None,
        delimiter=each.get("delimiter") or "",
        bearer=each.get("bearer") or "",
    )
