"""All sources that a call can see, each opened as bytes with where they are from and how old.

The operator's come from the copies that `handing` makes; a name of theirs hides the repository's.
Those of a repository are declared in its `.agent-runtime.yaml` and read where they are: its authors
vouch for them, and the task may have changed them.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from agent_runtime.modules import reading
from agent_runtime.modules.datasource import fetching
from agent_runtime.modules.datasource.declarations import Declared, Kind, Origin, kind_of, parse
from agent_runtime.modules.reading import Unreadable
from agent_runtime.modules.tries import twice
from agent_runtime.types import Json

FILE_BYTES_MAX: Final = 32 << 20
DATABASE_BYTES_MAX: Final = 512 << 20
MANIFEST: Final = "sources.json"
REPOSITORY_FILES: Final = (".agent-runtime.yaml", ".agent-runtime.yml")
_MANIFEST_BYTES_MAX: Final = 4 << 20
_CACHED_BYTES_MAX: Final = 64 << 20


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One source of the operator as it is handed over; times in seconds since 1970, 0: never."""

    name: str
    location: str
    description: str = ""
    kind: Kind = "text"
    delimiter: str = ""
    is_url: bool = False
    max_age_seconds: float | None = None
    sha256: str = ""
    """Of the copy; empty: there is none."""
    bytes_count: int = 0
    modified_at: float = 0.0
    fetched_at: float = 0.0
    checked_at: float = 0.0
    """When it was last seen that the copy is what the source is."""
    etag: str = ""
    last_modified: str = ""
    content_type: str = ""
    fault: str = ""
    """Why the copy may be behind, or is not there."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`sources.json`."""

    sources: list[Entry] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One source as a call sees it before it is opened. `entry`: the operator's only."""

    name: str
    origin: Origin
    description: str
    kind: Kind
    location: str
    max_age_seconds: float | None
    delimiter: str = ""
    entry: Entry | None = None
    declared: Declared | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A source's content at one moment, and its provenance. `path` is a file that holds it."""

    source: Source
    kind: Kind
    sha256: str
    bytes_count: int
    data: bytes | None = None
    """None where it is a database: that is opened by its path."""
    path: str = ""
    etag: str = ""
    modified_at: float = 0.0
    fetched_at: float = 0.0
    checked_at: float = 0.0
    fault: str = ""

    def provenance(self) -> dict[str, Json]:
        """Where it is from and how old it is, for the structured result."""
        age = self.age_seconds()
        limit = self.source.max_age_seconds
        return {
            "source": self.source.name,
            "declared_by": self.source.origin,
            "location": self.source.location,
            "kind": self.kind,
            "sha256": self.sha256,
            "bytes": self.bytes_count,
            "etag": self.etag,
            "modified_at": stated(self.modified_at),
            "fetched_at": stated(self.fetched_at),
            "checked_at": stated(self.checked_at),
            "age_seconds": None if age is None else round(age, 1),
            "max_age_seconds": limit,
            "stale": None if limit is None or age is None else age > limit,
            "fault": self.fault,
        }

    def age_seconds(self) -> float | None:
        """Since a file was changed, since a document was last seen to be right; None: unknown."""
        since = self.checked_at if "://" in self.source.location else self.modified_at
        return max(now() - since, 0.0) if since else None


def now() -> float:
    """Seconds since 1970."""
    return datetime.now(UTC).timestamp()


def stated(at: float) -> str:
    """A time for people and logs; empty if there is none."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at else ""


def content_name(sha256: str) -> str:
    """What a copy is called."""
    return f"content-{sha256[:32]}"


def manifest(directory: str) -> Manifest:
    """What the daemon has handed over; empty if nothing, or if it cannot be read."""
    try:
        data = reading.read_file(
            os.path.join(directory, MANIFEST), bytes_max=_MANIFEST_BYTES_MAX
        ).data
        return msgspec.json.decode(data, type=Manifest)
    except (Unreadable, msgspec.MsgspecError):
        return Manifest()


def all_sources(workspace: str, shared: str) -> tuple[dict[str, Source], list[str]]:
    """By name, sorted, and what is wrong with what the repository declares."""
    found: dict[str, Source] = {}
    problems: list[str] = []
    if workspace:
        declared, problems = _of_repository(workspace)
        for each in declared:
            found[each.name] = Source(
                name=each.name,
                origin="repository",
                description=each.description,
                kind=kind_of(each),
                location=each.location,
                max_age_seconds=each.max_age_seconds,
                delimiter=each.delimiter,
                declared=each,
            )
    for entry in manifest(shared).sources if shared else ():
        if entry.name in found:
            problems.append(
                f"{REPOSITORY_FILES[0]}: datasources.{entry.name}: the operator declares a source "
                "of this name, which is used"
            )
        found[entry.name] = Source(
            name=entry.name,
            origin="operator",
            description=entry.description,
            kind=entry.kind,
            location=entry.location,
            max_age_seconds=entry.max_age_seconds,
            delimiter=entry.delimiter,
            entry=entry,
        )
    return dict(sorted(found.items())), problems


def opened(source: Source, workspace: str, shared: str) -> Opened:
    """Its content now.

    Raises:
        Unreadable: there is none; says why.
    """
    if source.entry is not None:
        return _of_operator(source, source.entry, shared)
    assert source.declared is not None
    if source.declared.url:
        return _documents.get(source, source.declared)
    return _of_workspace(source, source.declared, workspace)


def fetched_twice(
    url: str, *, etag: str = "", last_modified: str = "", bearer: str = ""
) -> fetching.Fetched:
    """Two tries 100 ms apart, unless the first says that the second would be no other.

    Raises:
        fetching.NotFetched: both failed.
    """

    def ask() -> fetching.Fetched | fetching.NotFetched:
        try:
            return fetching.fetch(url, etag=etag, last_modified=last_modified, bearer=bearer)
        except fetching.NotFetched as error:
            if error.is_final:
                return error
            raise

    answer = twice(ask, errors=fetching.NotFetched)
    if isinstance(answer, fetching.Fetched):
        return answer
    raise answer


def _of_operator(source: Source, entry: Entry, shared: str) -> Opened:
    if not entry.sha256:
        raise Unreadable(f"there is no copy of it: {entry.fault or 'it has not been read yet'}")
    path = os.path.join(shared, content_name(entry.sha256))
    data = None
    if entry.kind != "sqlite":
        data = reading.read_file(path, bytes_max=FILE_BYTES_MAX).data
    return Opened(
        source=source, kind=entry.kind, sha256=entry.sha256, bytes_count=entry.bytes_count,
        data=data, path=path, etag=entry.etag, fault=entry.fault, fetched_at=entry.fetched_at,
        modified_at=entry.modified_at or _http_date(entry.last_modified),
        checked_at=entry.checked_at,
    )  # fmt: skip


def _of_workspace(source: Source, declared: Declared, workspace: str) -> Opened:
    try:
        path = reading.resolve(workspace, declared.file)
        if source.kind == "sqlite":
            found = reading.check_file(path, bytes_max=DATABASE_BYTES_MAX)
            with open(path, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return Opened(
                source=source, kind="sqlite", sha256=sha256, bytes_count=found.bytes_count,
                path=path, modified_at=found.mtime_ns / 1e9, checked_at=now(),
            )  # fmt: skip
        content = reading.read_file(path, bytes_max=FILE_BYTES_MAX)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    return Opened(
        source=source, kind=source.kind, sha256=hashlib.sha256(content.data).hexdigest(),
        bytes_count=len(content.data), data=content.data, path=path,
        modified_at=content.stamp.mtime_ns / 1e9, checked_at=now(),
    )  # fmt: skip


def _of_repository(workspace: str) -> tuple[list[Declared], list[str]]:
    from agent_runtime.documents import BYTES_MAX, decode, load
    from agent_runtime.errors import UsageError

    for name in REPOSITORY_FILES:
        try:
            data = reading.read(workspace, name, bytes_max=BYTES_MAX).data
            value = load(decode(data, name=name), name=name).value
        except Unreadable as error:
            if error.is_absent:
                continue
            return [], [f"{name}: {error}"]
        except (UsageError, OSError) as error:
            return [], [str(error)]
        wanted = value.get("datasources") if isinstance(value, dict) else None
        return parse(wanted, origin="repository", place=name)
    return [], []


@dataclass(slots=True)
class _Documents:
    """What this worker has fetched for repositories' sources. In memory: HOME is the task's."""

    _known: dict[str, tuple[fetching.Fetched, bytes, float, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, source: Source, declared: Declared) -> Opened:
        """The document; a known one is revalidated when it is older than its age, or has none."""
        with self._lock:
            return self._get(source, declared)

    def _get(self, source: Source, declared: Declared) -> Opened:
        fault = ""
        known = self._known.get(declared.url)
        age = declared.max_age_seconds
        if known is None or age is None or now() - known[3] > age:
            try:
                known = self._asked(declared.url, known)
            except fetching.NotFetched as error:
                if known is None:
                    raise Unreadable(f"{declared.url}: {error}") from None
                fault = f"it could not be revalidated: {error}; what was fetched before is used"
        fetched, body, fetched_at, checked_at = known
        return Opened(
            source=source, kind=kind_of(declared, fetched.content_type),
            sha256=hashlib.sha256(body).hexdigest(), bytes_count=len(body), data=body,
            etag=fetched.etag, modified_at=_http_date(fetched.last_modified), fault=fault,
            fetched_at=fetched_at, checked_at=checked_at,
        )  # fmt: skip

    def _asked(
        self, url: str, known: tuple[fetching.Fetched, bytes, float, float] | None
    ) -> tuple[fetching.Fetched, bytes, float, float]:
        before = known[0] if known else fetching.Fetched(body=None)
        fetched = fetched_twice(url, etag=before.etag, last_modified=before.last_modified)
        at = now()
        if fetched.body is not None:
            if sum(len(each[1]) for each in self._known.values()) > _CACHED_BYTES_MAX:
                self._known.clear()
            kept = (fetched, fetched.body, at, at)
        else:
            assert known is not None, "a server answered 304 to who has nothing"
            kept = (_renewed(fetched, known[0]), known[1], known[2], at)
        self._known[url] = kept
        return kept


def _renewed(new: fetching.Fetched, old: fetching.Fetched) -> fetching.Fetched:
    """What a 304 says, with the type that the document had."""
    return fetching.Fetched(
        body=old.body, etag=new.etag, last_modified=new.last_modified,
        content_type=old.content_type,
    )  # fmt: skip


def _http_date(text: str) -> float:
    try:
        return parsedate_to_datetime(text).timestamp() if text else 0.0
    except (ValueError, TypeError, OverflowError):
        return 0.0


_documents = _Documents()
