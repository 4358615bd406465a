from __future__ import annotations

import dataclasses
import io
import signal
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import msgspec
import pytest

from agent_runtime import __version__, bundles
from agent_runtime.bundles import Bundle
from agent_runtime.certificate import certificate_of
from agent_runtime.errors import CorruptLog, UsageError, WorkspaceError
from agent_runtime.loop import codec
from agent_runtime.loop.evolve import fold
from agent_runtime.loop.state import State
from agent_runtime.stores.memory import MemoryStore
from agent_runtime.transfer import import_task
from agent_runtime.types import BlobId, Row, TaskId, TreeId
from agent_runtime.workspaces import LocalWorkspaces
from tests.cli.conftest import Fixed, WriteTask
from tests.cli.helpers import UNSAFE, Cli

OTHER = BlobId(bundles.sha256_of(b"other"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def exported(fixed: Fixed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished task as one file."""
    path = tmp_path_factory.mktemp("exported") / "task.tar"
    done = fixed.cli("export", fixed.task_id[-8:], str(path))
    assert done.code == 0 and done.out == "" and fixed.task_id in done.err
    return path


def nothing_of_it(cli: Cli) -> bool:
    """Is there no trace of a task in the store, nor beside it?"""
    return cli("ps", "--all", "--json").json() == [] and not list(cli.state.glob("*/task_*"))


@pytest.mark.long
def test_a_task_looks_in_the_second_store_as_in_the_first(
    fixed: Fixed, exported: Path, cli: Cli
) -> None:
    """Evidence that only one machine can read is no evidence."""
    done = cli("import", str(exported))
    assert done.code == 0 and done.out == f"{fixed.task_id}\n"
    for verb in ("diff", "report"):
        assert cli(verb, fixed.task_id).out == fixed.cli(verb, fixed.task_id).out != ""
    assert (
        cli("logs", fixed.task_id, "--json").out == fixed.cli("logs", fixed.task_id, "--json").out
    )
    assert cli("show", fixed.task_id, "--json").json() == (
        fixed.cli("show", fixed.task_id, "--json").json()
    )
    assert cli("verify", fixed.task_id, "--json").json()["ok"] is True
    [certificate] = fixed.cli.state.glob("results/*/certificate.json")
    assert cli("verify", fixed.task_id, "--certificate", str(certificate)).code == 0


def test_verify_reads_the_imported_trees_too(fixed: Fixed, exported: Path, cli: Cli) -> None:
    assert cli("import", str(exported)).code == 0
    [pack] = cli.state.glob("workspaces/*/trees/store/objects/pack/*.pack")
    pack.chmod(0o600)
    pack.unlink()
    done = cli("verify", fixed.task_id)
    assert done.code == 1 and "trees" in done.out


@pytest.mark.long
def test_an_imported_task_can_be_applied_and_forgotten(
    exported: Path, fixed: Fixed, cli: Cli, repository: Path
) -> None:
    assert cli("import", str(exported)).code == 0
    assert cli("apply", fixed.task_id, "--to", str(repository)).out == "calc.py\n"
    assert "a + b" in (repository / "calc.py").read_text(encoding="utf-8")
    assert cli("gc", "--older-than", "0").code == 0
    assert nothing_of_it(cli)


def test_importing_again_changes_nothing(exported: Path, fixed: Fixed, cli: Cli) -> None:
    assert cli("import", str(exported), "--json").json() == {"task_id": fixed.task_id, "new": True}
    assert cli("import", str(exported), "--json").json() == {"task_id": fixed.task_id, "new": False}
    assert fixed.cli("import", str(exported)).code == 0


def test_a_task_of_that_id_with_another_log_is_a_conflict(
    exported: Path, fixed: Fixed, cli: Cli
) -> None:
    assert cli("import", str(exported)).code == 0
    with sqlite3.connect(cli.state / "store.db") as db:
        db.execute("DELETE FROM events WHERE seq > 5")
    db.close()
    before = sorted(cli.state.glob("workspaces/**/*"))
    done = cli("import", str(exported))
    assert done.code == 6 and fixed.task_id in done.err and "another log" in done.err
    assert sorted(cli.state.glob("workspaces/**/*")) == before


def test_equal_tasks_make_equal_files_that_tar_can_read(
    exported: Path, fixed: Fixed, tmp_path: Path, cli: Cli
) -> None:
    """Somebody without this program must be able to look."""
    assert cli("import", str(exported)).code == 0
    assert cli("export", fixed.task_id, str(tmp_path / "again.tar")).code == 0
    assert (tmp_path / "again.tar").read_bytes() == exported.read_bytes()
    with tarfile.open(exported) as tar:
        names = tar.getnames()
        assert names[:3] == ["manifest.json", "events.jsonl", "certificate.json"]
        assert names[-1] == "trees.pack"
        assert all(name.startswith("blobs/") for name in names[3:-1]) and len(names) > 4


@pytest.mark.long
def test_a_task_that_has_not_ended_is_not_exported(
    cli: Cli, shell_task: WriteTask, tmp_path: Path
) -> None:
    shell_task("true", "policy: {approvals: {shell: ask}}\n")
    assert cli("run", "task.yaml", "--wait-seconds", "0", UNSAFE).code == 9
    [task] = cli("ps", "--json").json()
    done = cli("export", task["id"], str(tmp_path / "x.tar"))
    assert done.code == 6 and "has" not in done.out and not (tmp_path / "x.tar").exists()
    assert "cancel" in done.err
    # Cancelled it has ended, though nothing was verified.
    assert cli("cancel", task["id"]).code == 0
    assert cli("export", task["id"], str(tmp_path / "x.tar")).code == 0
    other = Cli(tmp_path / "other")
    other.home.mkdir()
    assert other("import", str(tmp_path / "x.tar")).code == 0
    assert other("verify", task["id"]).code == 0 and other("diff", task["id"]).code == 0


def test_any_changed_byte_is_found_and_leaves_nothing(
    exported: Path, cli: Cli, tmp_path: Path
) -> None:
    """Every part is named by its digest, and there is nothing between the parts."""
    data = exported.read_bytes()
    with tarfile.open(exported) as tar:
        places = [
            at
            for info in tar.getmembers()
            for at in (info.offset + 5, info.offset_data + 3, info.offset_data + info.size - 1)
        ]
    for at in [*places, len(data) - 1]:
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises((UsageError, CorruptLog)):
            bundles.decode(bytes(changed))
    for length in (0, 100, 512, 5000, len(data) // 2, len(data) - 10241):
        with pytest.raises((UsageError, CorruptLog)):
            bundles.decode(data[:length])
    path = tmp_path / "changed.tar"
    path.write_bytes(data.replace(b"Make add add", b"Make add sub").replace(b"\0", b"\1", 1))
    assert cli("import", str(path)).code == 2
    assert nothing_of_it(cli)


def rechained(rows: list[Row], change: bytes, into: bytes) -> list[Row]:
    """The log with other bytes and hashes that fit them: what a forger would write."""
    made: list[Row] = []
    head = codec.GENESIS
    for row in rows:
        data = row.data.replace(change, into)
        digest = codec.row_hash(head, row.task_id, row.seq, row.type, row.schema, row.at_us, data)
        made.append(msgspec.structs.replace(row, data=data, prev_hash=head, hash=digest))
        head = digest
    return made


def forgeries(good: Bundle) -> dict[str, tuple[Bundle, type[Exception], str]]:
    """Files whose digests all fit; how each is refused, and words of why."""
    rows, trees = list(good.rows), list(good.trees)
    blob_id, blob = next(iter(good.blobs.items()))
    assert good.certificate is not None
    claims = {**good.certificate, "reason": "x"}
    moved = [*rows]
    moved[3] = msgspec.structs.replace(rows[3], at_us=rows[3].at_us + 1)
    goal = rechained(rows, b"Make add add", b"Make add sub")
    no_event = rechained(rows, b'"submitted_by"', b'"submitted_xx"')
    failed = rechained(rows, b'"exit":0,"ok":true', b'"exit":1,"ok":false')
    patched = rechained(rows, blob_id.encode(), OTHER.encode())
    unproven = certificate_of(folded(failed), failed)
    own = certificate_of(folded(patched), patched)
    change = dataclasses.replace
    return {
        "a moved event": (change(good, rows=moved), CorruptLog, "hash does not match"),
        "a missing event": (change(good, rows=rows[:3] + rows[4:]), CorruptLog, "is missing"),
        "a cut tail": (change(good, rows=rows[:-1]), CorruptLog, "not reach the end"),
        "no event": (change(good, rows=no_event), CorruptLog, "no readable"),
        "no blob": (change(good, blobs={}), CorruptLog, "which is missing"),
        "one blob more": (
            change(good, blobs={**good.blobs, OTHER: b"other"}), CorruptLog, "no event names",
        ),
        "another blob": (
            change(good, blobs={**good.blobs, blob_id: blob + b"x"}), CorruptLog, "another content",
        ),
        "another patch, and all claims fit": (
            change(good, rows=patched, blobs={OTHER: b"other"}, certificate=own),
            CorruptLog, "not the difference of its trees",
        ),
        "no certificate": (change(good, certificate=None), CorruptLog, "does not belong"),
        "other claims": (change(good, certificate=claims), CorruptLog, "does not say what"),
        "another goal": (change(good, rows=goal), CorruptLog, "does not say what"),
        "no evidence": (
            change(good, rows=failed, certificate=unproven), CorruptLog, "no verification",
        ),
        "another tree": (
            change(good, trees=[TreeId("a" * 40), *trees[1:]]), CorruptLog, "not those",
        ),
        "no trees": (change(good, trees=[], pack=b""), CorruptLog, "not those"),
        "no pack": (change(good, pack=b"PACK"), WorkspaceError, "cannot be read"),
        "half a pack": (
            change(good, pack=good.pack[: len(good.pack) // 2]), WorkspaceError, "cannot be read",
        ),
        "a path as an id": (
            change(good, task_id=TaskId("task_/../../etc")), UsageError, "no task id",
        ),
    }  # fmt: skip


def folded(rows: list[Row]) -> State:
    pairs = ((codec.decode(row), row.at_us) for row in rows)
    return fold(pairs, State(task_id=rows[0].task_id))


@pytest.mark.anyio
async def test_a_forged_file_is_refused_and_leaves_nothing(exported: Path, tmp_path: Path) -> None:
    """A digest in a file proves nothing about the file: whoever changes one changes the other."""
    store, workspaces = MemoryStore(), LocalWorkspaces(str(tmp_path))
    good = bundles.decode(exported.read_bytes())
    for what, (forged, kind, why) in forgeries(good).items():
        data = bundles.encode(forged, runtime=__version__)
        with pytest.raises(kind) as caught:
            await import_task(data, store, workspaces)
        assert why in str(caught.value), (what, caught.value)
        assert await store.tasks() == [], what
        assert not list(tmp_path.glob("workspaces/task_*")), what
    # Or else the refusals would prove nothing.
    assert (await import_task(exported.read_bytes(), store, workspaces)).new


@pytest.mark.long
def test_a_forged_file_ends_with_1(exported: Path, cli: Cli, tmp_path: Path) -> None:
    good = bundles.decode(exported.read_bytes())
    forged = dataclasses.replace(good, rows=good.rows[:-1])
    (tmp_path / "forged.tar").write_bytes(bundles.encode(forged, runtime=__version__))
    done = cli("import", str(tmp_path / "forged.tar"))
    assert done.code == 1 and "does not reach the end" in done.err
    assert nothing_of_it(cli)


KILLED = """\
import os, signal, sys
from {module} import {owner}
true = {owner}.{method}
async def dies(self, *arguments, **named):
    {before}
    os.kill(os.getpid(), signal.SIGKILL)
{owner}.{method} = dies
from agent_runtime.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("where", "before"),
    [
        ("agent_runtime.workspaces LocalWorkspaces unpack", "pass"),
        ("agent_runtime.workspaces LocalWorkspaces unpack", "await true(self, *arguments)"),
        ("agent_runtime.stores.sqlite SqliteStore create", "pass"),
    ],
)
@pytest.mark.long
def test_a_killed_import_leaves_no_task_and_can_be_repeated(
    exported: Path, fixed: Fixed, cli: Cli, where: str, before: str
) -> None:
    """The rows come last: until then there are only leftovers, in no other task's way.

    `gc` removes them when the task's id is an hour old: it cannot tell them from a task that is
    just being made.
    """
    module, owner, method = where.split()
    script = KILLED.format(module=module, owner=owner, method=method, before=before)
    done = subprocess.run(
        [sys.executable, "-c", script, "import", str(exported)],
        env=cli.environment(),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done
    assert cli("ps", "--all", "--json").json() == []
    assert cli("gc").code == 0
    assert {path.name for path in cli.state.glob("*/task_*")} <= {fixed.task_id}
    assert cli("import", str(exported)).code == 0
    assert cli("verify", fixed.task_id).code == 0


def tar_of(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.long
def test_what_only_looks_like_an_export_is_a_usage_error(
    exported: Path, cli: Cli, tmp_path: Path
) -> None:
    """Links, directories, long and absolute names, sizes beyond the end, unknown versions."""
    with tarfile.open(exported) as tar:
        good = [(info, tar.extractfile(info).read()) for info in tar.getmembers()]  # type: ignore[union-attr]
    manifest = good[0][1]
    huge = bytearray(exported.read_bytes())
    huge[124:135] = b"77777777777"
    huge[148:156] = b"%06o\0 " % (sum(huge[:148]) + 8 * 32 + sum(huge[156:512]))
    negative = bytearray(exported.read_bytes())
    negative[124:136] = b"\xff" * 12
    negative[148:156] = b"%06o\0 " % (sum(negative[:148]) + 8 * 32 + sum(negative[156:512]))
    for what, data in {
        "nothing": b"",
        "a text": b"hello\n" * 500,
        "an empty tar": tar_of(),
        "no manifest": tar_of(*good[1:]),
        "a second manifest": tar_of(good[0], *good),
        "another order": tar_of(good[0], *reversed(good[1:])),
        "a path": tar_of(*good, (member("../../escaped"), b"x")),
        "an absolute path": tar_of(*good, (member("/tmp/escaped"), b"x")),
        "a link": tar_of(good[0], (member("events.jsonl", tarfile.SYMTYPE, "/etc/passwd"), b"")),
        "a hard link": tar_of(good[0], (member("events.jsonl", tarfile.LNKTYPE, "a"), b"")),
        "a directory": tar_of(good[0], (member("blobs", tarfile.DIRTYPE), b"")),
        "a device": tar_of(good[0], (member("events.jsonl", tarfile.CHRTYPE), b"")),
        "a long name": tar_of((member("x" * 300), b""), *good, format=tarfile.GNU_FORMAT),
        "pax": tar_of((member("ü" * 300), b""), *good, format=tarfile.PAX_FORMAT),
        "a size beyond the end": bytes(huge),
        "a negative size": bytes(negative),
        "a version": tar_of(
            (member("manifest.json"), manifest.replace(b'"version": 1', b'"version": 2')), *good[1:]
        ),
        "another format": tar_of(
            (member("manifest.json"), manifest.replace(b"agent-runtime-task", b"agent-runtime-x")),
            *good[1:],
        ),
        "a deep manifest": tar_of((member("manifest.json"), b"[" * 100_000), *good[1:]),
        "a name in the manifest": tar_of(
            (member("manifest.json"), manifest.replace(b"trees.pack", b"../../pack")), *good[1:]
        ),
    }.items():
        with pytest.raises(UsageError) as caught:
            bundles.decode(data)
        assert "export" in str(caught.value), what
    path = tmp_path / "x.tar"
    path.write_bytes(
        tar_of((member("manifest.json"), manifest.replace(b'"version": 1', b'"version": 2')))
    )
    done = cli("import", str(path))
    assert done.code == 2 and "version 2" in done.err and "version 1" in done.err
    assert cli("import", str(tmp_path / "missing.tar")).code == 2
    assert cli("import", str(tmp_path)).code == 2
    assert nothing_of_it(cli)
