"""A task as one file: what `export` writes and `import` reads.

A tar of regular files in this order: `manifest.json`, `events.jsonl` (one stored row a line, its
bytes as base64), `certificate.json` if there is one, `blobs/SHA256` for each blob that the log
names, and `trees.pack`, a git pack of the versions that the result is about. The file comes from
anywhere, so it is read by a reader that knows exactly this and nothing else of tar: no links, no
directories, no long names. What the log says is checked by whoever takes the bundle in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from agent_runtime.errors import CorruptLog, UsageError
from agent_runtime.types import BlobId, Json, Row, TaskId, TreeId

FORMAT: Final = "agent-runtime-task"
VERSION: Final = 1
BYTES_MAX: Final = 1 << 30
"""A bundle passes through memory: a log with its texts and a repository, not a data set."""
EVENTS_BYTES_MAX: Final = 64 << 20
"""Event data: a store takes them as one append."""
COUNT_MAX: Final = 100_000
"""Blobs, as trees."""

_MANIFEST, _EVENTS, _CERTIFICATE = "manifest.json", "events.jsonl", "certificate.json"
_PACK, _BLOBS = "trees.pack", "blobs/"
_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
"""A tar's length is a multiple of it."""
_TASK_ID = re.compile(r"task_[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TREE = re.compile(r"[0-9a-f]{40}")
_OCTAL = re.compile(rb"[0-7]+\Z")


@dataclass(frozen=True, slots=True)
class Bundle:
    """One ended task. `pack` is empty if it has no `trees`."""

    task_id: TaskId
    rows: Sequence[Row]
    blobs: Mapping[BlobId, bytes]
    certificate: Mapping[str, Json] | None
    trees: Sequence[TreeId]
    pack: bytes


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The first file: what the others must be. Every digest is a SHA-256 in hex."""

    format: str
    version: int
    runtime: str
    task_id: str
    seq: int
    head: str
    trees: list[str]
    files: dict[str, str]
    """Name -> digest of every other file, in their order."""


# ---- writing -----------------------------------------------------------------------------


def encode(bundle: Bundle, *, runtime: str) -> bytes:
    """The file. `UsageError` if it would be larger than `decode` takes."""
    data_bytes = sum(len(row.data) for row in bundle.rows)
    if data_bytes > EVENTS_BYTES_MAX:
        raise UsageError(
            f"the log of task {bundle.task_id!r} has {data_bytes} bytes, and an export holds at "
            f"most {EVENTS_BYTES_MAX}; copy the whole store instead"
        )
    files = {_EVENTS: b"".join(msgspec.json.encode(row) + b"\n" for row in bundle.rows)}
    if bundle.certificate is not None:
        files[_CERTIFICATE] = msgspec.json.encode(bundle.certificate)
    for blob_id, data in bundle.blobs.items():
        files[_BLOBS + blob_id] = data
    if bundle.trees:
        files[_PACK] = bundle.pack
    last = bundle.rows[-1]
    manifest = _Manifest(
        format=FORMAT,
        version=VERSION,
        runtime=runtime,
        task_id=bundle.task_id,
        seq=last.seq,
        head=last.hash,
        trees=list(bundle.trees),
        files={name: sha256_of(data) for name, data in files.items()},
    )
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    parts = [
        part for name, data in {_MANIFEST: text, **files}.items() for part in _member(name, data)
    ]
    total_bytes = sum(map(len, parts)) + 2 * _BLOCK
    parts.append(bytes(2 * _BLOCK + -total_bytes % _RECORD))
    if sum(map(len, parts)) > BYTES_MAX:
        raise UsageError(
            f"task {bundle.task_id!r} makes a file of {total_bytes} bytes, and an export has at "
            f"most {BYTES_MAX}; copy the whole store instead"
        )
    return b"".join(parts)


def _member(name: str, data: bytes) -> Iterator[bytes]:
    # POSIX ustar. Owner and time are left out, so that equal tasks make equal files.
    fields = (
        name.encode().ljust(100, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0",
        b"%011o\0" % len(data), b"%011o\0" % 0, b" " * 8, b"0", bytes(100), b"ustar\x0000",
    )  # fmt: skip
    header = b"".join(fields).ljust(_BLOCK, b"\0")
    yield header[:148] + b"%06o\0 " % sum(header) + header[156:]
    yield data
    yield bytes(-len(data) % _BLOCK)


# ---- reading -----------------------------------------------------------------------------


def decode(data: bytes) -> Bundle:
    """What `encode` was given, if every byte of it is still the same.

    Raises:
        UsageError: it is no export, or one of a version that is not known here.
        CorruptLog: it is one, and a part of it is not what was written.
    """
    members = _members(data)
    name, text = next(members, ("", memoryview(b"")))
    if name != _MANIFEST:
        raise _no_export("it does not begin with a manifest")
    manifest = _manifest(text)
    files = dict(_listed(manifest, members))
    rows = _rows(manifest, files[_EVENTS])
    certificate = None
    if _CERTIFICATE in files:
        try:
            certificate = msgspec.json.decode(files[_CERTIFICATE], type=dict[str, Json])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _no_export(f"its certificate cannot be read: {error}") from None
    return Bundle(
        task_id=TaskId(manifest.task_id),
        rows=rows,
        blobs={
            BlobId(name.removeprefix(_BLOBS)): bytes(content)
            for name, content in files.items()
            if name.startswith(_BLOBS)
        },
        certificate=certificate,
        trees=[TreeId(tree) for tree in manifest.trees],
        pack=bytes(files.get(_PACK, b"")),
    )


def _manifest(text: memoryview) -> _Manifest:
    try:
        stated = msgspec.json.decode(text, type=dict[str, Json])
        if stated.get("format") != FORMAT:
            raise _no_export(f"its manifest names the format {stated.get('format')!r}")
        if stated.get("version") != VERSION:
            raise UsageError(
                f"the file is an export of version {stated.get('version')!r}, and this runtime "
                f"knows version {VERSION}: use the one that wrote it ({stated.get('runtime')!r}) "
                "or a newer one"
            )
        manifest = msgspec.convert(stated, _Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _no_export(f"its manifest cannot be read: {error}") from None
    if not _TASK_ID.fullmatch(manifest.task_id):
        raise _no_export(f"{manifest.task_id!r} is no task id")
    if len(manifest.trees) > COUNT_MAX or len(manifest.files) > COUNT_MAX:
        raise _no_export(f"it has more than {COUNT_MAX} parts")
    if not all(map(_TREE.fullmatch, manifest.trees)):
        raise _no_export("a tree's id is none")
    if (_PACK in manifest.files) != bool(manifest.trees) or _EVENTS not in manifest.files:
        raise _no_export("a part is missing")
    return manifest


def _listed(
    manifest: _Manifest, members: Iterator[tuple[str, memoryview]]
) -> Iterator[tuple[str, memoryview]]:
    """The other files, exactly those of the manifest and in its order."""
    for wanted, digest in manifest.files.items():
        blob = wanted.removeprefix(_BLOBS)
        if wanted not in (_EVENTS, _CERTIFICATE, _PACK):
            if not wanted.startswith(_BLOBS) or not _SHA256.fullmatch(blob):
                raise _no_export(f"its part {wanted[:100]!r} is not one of an export")
            if blob != digest:
                raise _changed(manifest, wanted)
        name, content = next(members, ("", memoryview(b"")))
        if name != wanted:
            raise _no_export(f"the part {wanted!r} is missing or out of order")
        if sha256_of(content) != digest:
            raise _changed(manifest, wanted)
        yield wanted, content
    if (more := next(members, None)) is not None:
        raise _no_export(f"it has a part {more[0][:100]!r} that its manifest does not name")


def _rows(manifest: _Manifest, text: memoryview) -> list[Row]:
    if len(text) > 2 * EVENTS_BYTES_MAX:
        raise _no_export(f"its log is larger than {EVENTS_BYTES_MAX} bytes")
    try:
        rows = msgspec.json.Decoder(Row).decode_lines(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _no_export(f"its log cannot be read: {error}") from None
    if not rows or (rows[-1].seq, rows[-1].hash) != (manifest.seq, manifest.head):
        raise CorruptLog(
            f"the log of {manifest.task_id!r} does not end at the event {manifest.seq} that the "
            "manifest names: the tail was cut or the head changed",
            task_id=manifest.task_id,
            seq=len(rows) + 1,
        )
    return rows


def _members(data: bytes) -> Iterator[tuple[str, memoryview]]:
    """Name and content of every file of a ustar archive, refusing whatever we do not write."""
    if len(data) > BYTES_MAX:
        raise _no_export(f"it is larger than {BYTES_MAX} bytes")
    view = memoryview(data)
    at = 0
    while True:
        header = bytes(view[at : at + _BLOCK])
        if len(header) < _BLOCK:
            raise _no_export("it was cut")
        if not any(header):
            if any(view[at:]):
                raise _no_export("something follows its end")
            return
        name, size_bytes = _member_header(header)
        at += _BLOCK
        end = at + size_bytes
        if end > len(data):
            raise _no_export(f"its part {name!r} is said to have {size_bytes} bytes, and it ends")
        yield name, view[at:end]
        padding = -size_bytes % _BLOCK
        if any(view[end : end + padding]):
            raise _no_export("something stands between its parts")
        at = end + padding


def _member_header(header: bytes) -> tuple[str, int]:
    checksum, size = header[148:154], header[124:135]
    expected = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if header[257:262] != b"ustar" or not _OCTAL.match(checksum) or int(checksum, 8) != expected:
        raise _no_export("it is no tar file")
    name = header[:100].rstrip(b"\0").decode("ascii", "backslashreplace")
    if header[156:157] != b"0" or any(header[157:257]) or any(header[345:]):
        raise _no_export(f"its part {name!r} is no regular file with a short name")
    if not _OCTAL.match(size):
        raise _no_export(f"the size of its part {name!r} is no number")
    return name, int(size, 8)


def sha256_of(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _no_export(why: str) -> UsageError:
    return UsageError(
        f"the file is no export of a task: {why}; `agent-runtime export TASK FILE` makes one"
    )


def _changed(manifest: _Manifest, name: str) -> CorruptLog:
    return CorruptLog(
        f"the export of {manifest.task_id!r} is not what was written: {name!r} has another content",
        task_id=manifest.task_id,
    )
