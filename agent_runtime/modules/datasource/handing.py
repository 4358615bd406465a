"""The operator's sources, copied to where the sandboxes see them; runs in the daemon.

    <shared_dir>/datasource/sources.json   what there is and what is known of it; replaced whole
                            content-…      the bytes, named by their SHA-256; never changed

A query then runs in the sandbox, on a copy: it locks nobody's database, holds up no daemon, and
what it is told was the state at one moment. Tokens stay here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote

import apsw
import msgspec

from agent_runtime.documents import BYTES_MAX, decode, load
from agent_runtime.errors import ConfigError, UsageError
from agent_runtime.modules import reading, sharing
from agent_runtime.modules.datasource import fetching, sources
from agent_runtime.modules.datasource.declarations import Declared, kind_of, parse
from agent_runtime.modules.datasource.sources import Entry, Manifest
from agent_runtime.modules.reading import Stamp, Unreadable
from agent_runtime.modules.tries import twice
from agent_runtime.redaction import Redactor
from agent_runtime.secret_sources import fault_of, read_secret

SETTING: Final = "file"
DATABASE_BYTES_MAX: Final = 512 << 20
FIRST_SECONDS_MAX: Final = 12.0
"""What a task waits for at first; a server that has not answered by then is asked later."""
MAX_AGE_SECONDS: Final = 300.0
"""How often a document is revalidated that is declared without an age."""
RETRY_SECONDS: Final = 15.0
LOOKED_SECONDS: Final = 30.0
"""How often it is written down that nothing has changed."""
BUSY_MS: Final = 2_000


def declared_in(settings: Mapping[str, str]) -> list[Declared]:
    """The sources in the file that the module's settings name; relative paths start there.

    Raises:
        ConfigError: a setting is unknown, or the file or a source in it is wrong; all of it told.
    """
    for name in settings:
        if name != SETTING:
            raise ConfigError(
                f"the module 'datasource' has no setting {name!r}; it has {SETTING!r}: a YAML file "
                "with the mapping 'datasources'"
            )
    path = os.path.expanduser(settings.get(SETTING, "").strip())
    if not path:
        return []
    if not os.path.isabs(path):
        raise ConfigError(f"modules.datasource.{SETTING}: {path!r} must be an absolute path")
    try:
        content = reading.read_file(os.path.realpath(path), bytes_max=BYTES_MAX)
        document = load(decode(content.data, name=path), name=path)
    except (Unreadable, UsageError) as error:
        raise ConfigError(f"modules.datasource.{SETTING}: {path}: {error}") from None
    problems = [f"{path}:{line}: {text}" for _, text, line in document.problems]
    value = document.value
    if not isinstance(value, dict) or value.keys() - {"datasources"}:
        raise ConfigError(f"{path}: must hold one mapping, 'datasources', from name to source")
    found, wrong = parse(value.get("datasources"), origin="operator", place=path)
    for each in found:
        if each.bearer and (fault := fault_of(each.bearer)):
            wrong.append(f"{path}: datasources.{each.name}: bearer {fault}")
    if problems + wrong:
        raise ConfigError("\n".join(problems + wrong))
    here = os.path.dirname(path)
    return [
        replace(each, file=os.path.normpath(os.path.join(here, os.path.expanduser(each.file))))
        if each.file
        else each
        for each in found
    ]


@dataclass(slots=True)
class _Known:
    """What this process remembers of a source beyond its entry."""

    entry: Entry
    stamps: tuple[Stamp | None, ...] = ()
    due_at: float = 0.0
    """When a document is asked for again; by the clock of `sources.now`."""


class Handing:
    """Copies of sources in one directory, brought up to date by `refresh`."""

    def __init__(self, declared: Sequence[Declared], target: str) -> None:
        self._declared = declared
        self._target = target
        self._known: dict[str, _Known] = {}
        self._written = b""
        self._written_at = 0.0
        self._kept: frozenset[str] = frozenset()

    def faults(self) -> dict[str, str]:
        """Source -> what is wrong with it now."""
        return {name: known.entry.fault for name, known in self._known.items() if known.entry.fault}

    def refresh(self) -> None:
        """Copy what has changed, revalidate what is due. Blocks; a fault is told in the entry."""
        is_first = not self._known
        if is_first:
            sharing.make_directory(self._target)
            self._sweep()
            self._recall()
        stop_at = time.monotonic() + FIRST_SECONDS_MAX
        with ThreadPoolExecutor(max_workers=8) as pool:
            jobs = [
                pool.submit(self._look, declared, stop_at if is_first else None)
                for declared in self._declared
            ]
            for job in jobs:
                job.result()
        self._write()

    def _sweep(self) -> None:
        """Remove what killed processes left half-made; not what another one makes just now."""
        for name in os.listdir(self._target):
            path = os.path.join(self._target, name)
            with suppress(OSError):
                if name.startswith(".making-") and os.stat(path).st_mtime < sources.now() - 3600:
                    shutil.rmtree(path)

    def _recall(self) -> None:
        """What an earlier process left: a document need not be fetched twice."""
        before = {entry.name: entry for entry in sources.manifest(self._target).sources}
        for declared in self._declared:
            entry = before.get(declared.name)
            if entry is None or entry.location != declared.location:
                entry = Entry(name=declared.name, location=declared.location)
            self._known[declared.name] = _Known(
                msgspec.structs.replace(
                    entry,
                    description=declared.description,
                    max_age_seconds=declared.max_age_seconds,
                    delimiter=declared.delimiter,
                    is_url=bool(declared.url),
                    kind=kind_of(declared, entry.content_type),
                )
            )

    def _look(self, declared: Declared, stop_at: float | None) -> None:
        known = self._known[declared.name]
        try:
            if declared.file:
                self._look_at_file(declared, known)
            elif sources.now() >= known.due_at:
                self._look_at_url(declared, known, stop_at)
        except (Unreadable, fetching.NotFetched, ConfigError, OSError, apsw.Error) as error:
            known.due_at = sources.now() + RETRY_SECONDS
            known.entry = msgspec.structs.replace(known.entry, fault=str(error)[:500])

    def _look_at_file(self, declared: Declared, known: _Known) -> None:
        real = os.path.realpath(declared.file)
        entry = known.entry
        is_database = entry.kind == "sqlite"
        beside = ("-wal", "-journal") if is_database else ()
        stamps = tuple(_stamp(real + suffix) for suffix in ("", *beside))
        if not entry.fault and known.stamps == stamps and self._has(entry):
            known.entry = msgspec.structs.replace(entry, checked_at=sources.now())
            return
        if is_database:
            sha256, count = self._copy_database(real)
        else:
            content = reading.read_file(real, bytes_max=sources.FILE_BYTES_MAX)
            sha256, count = self._keep(content.data), len(content.data)
        if stamps[0] is None:
            raise Unreadable("there is no such file")
        # A database's newest change may lie in the file beside it.
        modified = max(stamp.mtime_ns for stamp in stamps if stamp is not None) / 1e9
        known.stamps = stamps
        known.entry = msgspec.structs.replace(
            entry, sha256=sha256, bytes_count=count, modified_at=modified,
            fetched_at=sources.now(), checked_at=sources.now(), fault="",
        )  # fmt: skip

    def _look_at_url(self, declared: Declared, known: _Known, stop_at: float | None) -> None:
        if stop_at is not None and time.monotonic() > stop_at:
            raise fetching.NotFetched("it has not been asked for yet; it will be")
        entry = known.entry
        token = read_secret(declared.name, declared.bearer, os.environ) if declared.bearer else ""
        has = self._has(entry)
        fetched = sources.fetched_twice(
            declared.url,
            etag=entry.etag if has else "",
            last_modified=entry.last_modified if has else "",
            bearer=token,
        )
        if fetched.body is not None:
            # A server may answer with what it was sent.
            body = Redactor({declared.name: token}).redact(fetched.body) if token else fetched.body
            entry = msgspec.structs.replace(
                entry, sha256=self._keep(body), bytes_count=len(body), fetched_at=sources.now(),
                content_type=fetched.content_type, kind=kind_of(declared, fetched.content_type),
            )  # fmt: skip
        known.due_at = sources.now() + max((declared.max_age_seconds or MAX_AGE_SECONDS) / 2, 2)
        known.entry = msgspec.structs.replace(
            entry, etag=fetched.etag, last_modified=fetched.last_modified,
            checked_at=sources.now(), fault="",
        )  # fmt: skip

    def _copy_database(self, real: str) -> tuple[str, int]:
        """A consistent copy of a database that others may write meanwhile."""
        reading.check_file(real, bytes_max=DATABASE_BYTES_MAX)
        with tempfile.TemporaryDirectory(dir=self._target, prefix=".making-") as making:
            copy = os.path.join(making, "copy.db")
            copied = twice(
                lambda: _backed_up(real, copy), errors=(apsw.BusyError, apsw.LockedError)
            )
            if isinstance(copied, Exception):
                raise copied
            with open(copy, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.chmod(copy, 0o644)
            count = os.stat(copy).st_size
            os.replace(copy, self._content(sha256))
        return sha256, count

    def _keep(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        if not os.path.exists(self._content(sha256)):
            sharing.put(self._content(sha256), data)
        return sha256

    def _has(self, entry: Entry) -> bool:
        return bool(entry.sha256) and os.path.exists(self._content(entry.sha256))

    def _content(self, sha256: str) -> str:
        return os.path.join(self._target, sources.content_name(sha256))

    def _write(self) -> None:
        entries = [self._known[declared.name].entry for declared in self._declared]
        data = msgspec.json.encode(Manifest(sources=entries))
        quiet = msgspec.json.encode(
            [msgspec.structs.replace(entry, checked_at=0) for entry in entries]
        )
        if quiet == self._written and sources.now() - self._written_at < LOOKED_SECONDS:
            return
        sharing.put(os.path.join(self._target, sources.MANIFEST), data)
        self._written, self._written_at = quiet, sources.now()
        kept = frozenset(sources.content_name(entry.sha256) for entry in entries if entry.sha256)
        for name in os.listdir(self._target):
            # What the last manifest named may be read just now.
            if name.startswith("content-") and name not in kept | self._kept:
                with suppress(OSError):
                    os.unlink(os.path.join(self._target, name))
        self._kept = kept


def _backed_up(real: str, copy: str) -> bool:
    with suppress(FileNotFoundError):
        os.unlink(copy)
    source = _open(real)
    try:
        target = apsw.Connection(copy)
        try:
            with target.backup("main", source, "main") as backup:
                while not backup.done:
                    backup.step(-1)
        finally:
            target.close(True)
    finally:
        source.close(True)
    return True


def _open(real: str) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        db = apsw.Connection(f"file:{quote(real)}?mode=ro", flags=flags)
        db.set_busy_timeout(BUSY_MS)
        db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except apsw.CantOpenError:
        # Its directory cannot be written, and it was closed in WAL mode: nobody is changing it.
        if os.path.exists(f"{real}-wal"):
            raise
        db = apsw.Connection(f"file:{quote(real)}?mode=ro&immutable=1", flags=flags)
    return db


def _stamp(path: str) -> Stamp | None:
    try:
        return reading.stamp_of(os.stat(path))
    except FileNotFoundError:
        return None
