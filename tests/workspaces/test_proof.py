"""Clean checkouts and what is checked on them."""

import json
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agent_runtime.ports import (
    CheckOutcome,
    ExecResult,
    Furnished,
    OpenedWorkspace,
    Probe,
    Sandbox,
    SandboxSession,
    SandboxSpec,
    Verification,
)
from agent_runtime.types import Check, Json, Objective, WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces
from agent_runtime.workspaces.counts import count_tests
from agent_runtime.workspaces.verify import OUTPUT_CHARS_MAX, Verifier, capped
from tests.workspaces.conftest import TASK, Repo, contents

pytestmark = pytest.mark.anyio

RENAMED = b'[project]\nname = "y"\n[tool.pytest.ini_options]\naddopts = ""\n'
PROTECTED = ("conftest.py", "tests/**")


class DirectSandbox:
    """Runs commands in the checkout without any boundary: what it isolates is tested elsewhere."""

    name = "direct"

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def probe(self) -> Probe:
        return Probe(True, self.name, "")

    async def open(self, spec: SandboxSpec) -> SandboxSession:
        raise NotImplementedError

    async def execute(
        self, spec: SandboxSpec, argv: Sequence[str], *, deadline_seconds: float
    ) -> ExecResult:
        self.seen.append(spec.workspace)
        with anyio.move_on_after(deadline_seconds):
            env = {**os.environ, **spec.env}
            done = await anyio.run_process(list(argv), cwd=spec.workspace, env=env, check=False)
            return ExecResult(
                exit=done.returncode, output=done.stdout, output_bytes=len(done.stdout)
            )
        return ExecResult(exit=124, output=b"", output_bytes=0, timed_out=True)

    async def reap(self, owner_id: str) -> int:
        return 0


@pytest.fixture
async def opened(workspaces: LocalWorkspaces, repo: Repo) -> OpenedWorkspace:
    repo.write("tests/test_a.py", b"def test_a(): assert True\n")
    repo.write("conftest.py", b"# the rules\n")
    repo.write(
        "pyproject.toml", b'[project]\nname = "x"\n[tool.pytest.ini_options]\naddopts = ""\n'
    )
    repo.commit()
    return await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))


def _bare(mount: str) -> Furnished:
    """A checkout with nothing around it."""

    @asynccontextmanager
    async def furnished(path: str) -> AsyncIterator[SandboxSpec]:
        yield SandboxSpec(owner_id=TASK, workspace=path, mount=mount)

    return furnished


async def _verify(
    workspaces: LocalWorkspaces,
    opened: OpenedWorkspace,
    *commands: str | list[str],
    sandbox: Sandbox | None = None,
    **options: Json,
) -> Verification:
    return await Verifier(workspaces).verify(
        TASK,
        objectives=[
            Objective(id=f"o{number}", check=Check(command=command, **options))
            for number, command in enumerate(commands)
        ],
        base=opened.base_tree,
        tree=await workspaces.snapshot(TASK),
        protected=PROTECTED,
        sandbox=sandbox or DirectSandbox(),
        furnished=_bare(opened.mount),
    )


# ---- exports -----------------------------------------------------------------------------


async def test_an_export_has_the_bases_protected_files_and_no_others(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    work = Path(opened.path)
    (work / "a.py").write_bytes(b"fixed\n")
    (work / "conftest.py").write_bytes(b"def pytest_sessionfinish(session): session.exitstatus = 0")
    (work / "docs/conftest.py").write_bytes(b"added\n")
    (work / "tests/test_a.py").unlink()
    after = await workspaces.snapshot(TASK)
    path, tree = await workspaces.export(TASK, after, base=opened.base_tree, protected=PROTECTED)
    held = contents(path)
    assert held[b"a.py"] == ("file", b"fixed\n")
    assert held[b"conftest.py"] == ("file", b"# the rules\n")
    assert held[b"tests/test_a.py"] == ("file", b"def test_a(): assert True\n")
    assert b"docs/conftest.py" not in held
    assert [c.path for c in await workspaces.changes(TASK, opened.base_tree, tree)] == ["a.py"]
    assert not Path(path, ".git").exists()
    await workspaces.discard(path)
    assert not os.path.exists(path)


@pytest.mark.parametrize("trick", ["directory", "link_above", "file_above", "link"])
async def test_no_change_of_type_gets_around_protection(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, trick: str, tmp_path: Path
) -> None:
    work = Path(opened.path)
    match trick:
        case "directory":
            (work / "conftest.py").unlink()
            (work / "conftest.py").mkdir()
            (work / "conftest.py" / "__init__.py").write_bytes(b"evil\n")
        case "link_above":
            shutil.rmtree(work / "tests")
            os.symlink("docs", work / "tests")
        case "file_above":
            shutil.rmtree(work / "tests")
            (work / "tests").write_bytes(b"evil\n")
        case _:
            (work / "conftest.py").unlink()
            os.symlink("a.py", work / "conftest.py")
    base = opened.base_tree
    after = await workspaces.snapshot(TASK)
    path, tree = await workspaces.export(TASK, after, base=base, protected=PROTECTED)
    assert tree == base
    assert contents(path)[b"tests/test_a.py"] == ("file", b"def test_a(): assert True\n")
    verification = await _verify(workspaces, opened, "true")
    assert not verification.ok
    assert verification.protected_changed


async def test_an_export_is_as_raw_as_its_tree(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    work = Path(opened.path)
    (work / ".gitattributes").write_text("* text eol=crlf ident export-ignore\n")
    (work / "raw").write_bytes(b"a\nb\r\n$Id$\0")
    (work / "x.sh").write_bytes(b"")
    (work / "x.sh").chmod(0o755)
    os.symlink("raw", work / "l")
    path, _ = await workspaces.export(
        TASK, await workspaces.snapshot(TASK), base=opened.base_tree, protected=()
    )
    assert contents(path) == contents(work)


# ---- verification ------------------------------------------------------------------------


async def test_every_check_runs_on_a_checkout_of_its_own(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    Path(opened.path, "a.py").write_bytes(b"fixed\n")
    sandbox = DirectSandbox()
    verification = await _verify(
        workspaces, opened, "touch left && grep -q fixed a.py", ["test", "!", "-e", "left"],
        sandbox=sandbox,
    )  # fmt: skip
    assert verification.ok
    assert verification.tree == await workspaces.snapshot(TASK)
    assert len(set(sandbox.seen)) == 5, "each on the work and on the base, one bad end twice"
    assert not any(os.path.exists(path) for path in sandbox.seen)
    assert not os.path.exists(Path(opened.path, "left"))


async def test_a_wrong_exit_code_and_a_deadline_are_named(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    verification = await _verify(workspaces, opened, "echo no; exit 3", "exit 0")
    assert not verification.ok
    assert [(c.id, c.exit, c.ok, c.reason, c.output) for c in verification.checks] == [
        ("o0", 3, False, "exit 3, expected 0", "no\n"),
        ("o1", 0, True, "", ""),
    ]
    expected = await _verify(workspaces, opened, "exit 3", exit=3)
    assert expected.ok
    late = await _verify(workspaces, opened, ["tail", "-f", "/dev/null"], timeout_seconds=0.2)
    assert late.checks[0].reason == "no end within 0.2 s"


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("=== 12 passed, 1 warning in 0.10s ===", ""),
        ("9 passed in 1s", "9 passed, expected at least 10"),
        ("no tests ran", "no summary line says how many passed, expected at least 10"),
    ],
)
async def test_a_minimum_of_passed_tests_is_read_from_the_summary(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, printed: str, reason: str
) -> None:
    verification = await _verify(workspaces, opened, f"echo '{printed}'", min_passed=10)
    assert verification.checks[0].reason == reason
    assert verification.ok is (reason == "")


@pytest.mark.parametrize(
    ("output", "counts"),
    [
        ("1 passed\n5 passed, 2 failed in 3s\nbye\n", (5, 7)),
        ("\x1b[32m\x1b[1m7 passed\x1b[0m in 0.1s", (7, 7)),
        ("3 failed, 4 passed, 2 skipped, 1 xfailed, 1 error in 1.2s", (4, 9)),
        ("== no tests ran, 1 error in 0.10s ==", (0, 1)),
        ("Tests:       1 failed, 41 passed, 42 total\nTime: 1 s", (41, 42)),
        ("test result: ok. 3 passed; 0 failed; 0 ignored", (3, 3)),
        (
            "test result: ok. 3 passed; 1 failed; 0 ignored\n"
            "test result: ok. 2 passed; 0 failed; 0 ignored",
            (5, 6),
        ),
        ("v1.5 passed the gate", None),
        ("2 errors found", None),
        ("", None),
    ],
)
def test_the_last_summary_counts(output: str, counts: tuple[int, int] | None) -> None:
    assert count_tests(output) == counts


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("2 failed, 3 passed", "5 passed", ""),
        (
            "2 failed, 3 passed",
            "3 passed",
            "tests_lost: 3 tests came to a verdict, and 5 before the work",
        ),
        (
            "2 failed, 3 passed",
            "3 passed, 2 skipped",
            "tests_lost: 3 tests came to a verdict, and 5 before",
        ),
        ("3 passed", "2 passed, 1 xfailed", "tests_lost: 2 tests passed, and 3 before the work"),
        (
            "3 passed",
            "nothing to say",
            "tests_lost: 0 tests came to a verdict, and 3 before the work",
        ),
        ("1 error in 0.1s", "96 passed", ""),
        ("no summary", "5 passed", ""),
    ],
)
async def test_a_good_check_must_not_lose_tests(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, before: str, after: str, reason: str
) -> None:
    """Code under test can skip its tests; the exit code is 0 all the same."""
    Path(opened.path, "a.py").write_bytes(b"fixed\n")
    command = f"if grep -q fixed a.py; then echo '{after}'; else echo '{before}'; exit 1; fi"
    [check] = (await _verify(workspaces, opened, command)).checks
    assert check.before is not None and check.before.exit == 1
    assert check.ok is (not reason) and check.reason.startswith(reason)


async def test_without_a_change_a_check_is_its_own_baseline(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    sandbox = DirectSandbox()
    [check] = (await _verify(workspaces, opened, "exit 0", sandbox=sandbox)).checks
    assert check.before is not None and (check.before.exit, len(sandbox.seen)) == (0, 1)


@pytest.mark.parametrize("fixed", [True, False])
async def test_a_check_that_ends_now_well_and_now_not_is_flaky(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, fixed: bool, tmp_path: Path
) -> None:
    """It failed on the base by chance: that it passes now proves nothing."""
    once = tmp_path / "once"
    Path(opened.path, "a.py").write_bytes(b"fixed\n")
    unlucky = "! grep -q fixed a.py" if fixed else "grep -q fixed a.py"
    command = f"if {unlucky} && [ ! -e {once} ]; then touch {once}; exit 1; fi"
    [check] = (await _verify(workspaces, opened, command)).checks
    assert (check.ok, check.flaky) == (fixed, True)


async def test_a_check_that_fails_twice_is_not_flaky(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    Path(opened.path, "a.py").write_bytes(b"fixed\n")
    [check] = (await _verify(workspaces, opened, "grep -q fixed a.py")).checks
    assert check.ok and not check.flaky


def test_long_output_keeps_its_head_and_tail() -> None:
    text = capped("a" * 50_000 + "z" * 50_000)
    assert len(text) <= OUTPUT_CHARS_MAX
    assert text.startswith("aaa") and text.endswith("zzz") and "characters left out" in text


@pytest.mark.parametrize(
    ("path", "data", "changed"),
    [
        ("a.py", b"fixed\n", ()),
        ("conftest.py", b"evil\n", ("conftest.py",)),
        ("deep/conftest.py", b"evil\n", ("deep/conftest.py",)),
        ("pyproject.toml", RENAMED, ()),
        ("pyproject.toml", b'[tool.pytest.ini_options]\naddopts = "-k no"\n', ("pyproject.toml",)),
        ("pyproject.toml", b"not = [toml", ("pyproject.toml",)),
        ("package.json", b'{"scripts": {"test": "true"}}', ("package.json",)),
        ("package.json", b'{"name": "x"}', ()),
    ],
)  # fmt: skip
async def test_a_protected_change_makes_a_verification_fail(
    workspaces: LocalWorkspaces,
    opened: OpenedWorkspace,
    path: str,
    data: bytes,
    changed: tuple[str, ...],
) -> None:
    target = Path(opened.path, path)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(data)
    verification = await _verify(workspaces, opened, "true")
    assert verification.protected_changed == changed
    assert verification.ok is (not changed)


async def test_a_link_in_place_of_a_shared_file_counts_as_changed(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    Path(opened.path, "pyproject.toml").unlink()
    os.symlink("/etc/hostname", Path(opened.path, "pyproject.toml"))
    verification = await _verify(workspaces, opened, "true")
    assert verification.protected_changed == ("pyproject.toml",)


async def test_a_link_and_a_name_that_may_be_two_are_no_files(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    work = Path(opened.path)
    os.symlink("a.py", work / "l.py")
    with open(os.path.join(os.fsencode(work), b"\xff.py"), "wb") as file:
        file.write(b"raw")
    paths = ["l.py", "\\xff.py"]
    after = await workspaces.snapshot(TASK)
    assert await workspaces.contents(TASK, after, paths) == {"l.py": None, "\\xff.py": b"raw"}
    (work / "\\xff.py").write_bytes(b"spelled")
    after = await workspaces.snapshot(TASK)
    assert await workspaces.contents(TASK, after, paths) == {"l.py": None, "\\xff.py": None}


async def test_what_the_agent_left_outside_the_tree_is_not_in_the_proof(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    """Pipes, empty directories and whatever lies in `.git`."""
    os.mkfifo(Path(opened.path, "pipe"))
    Path(opened.path, ".git", "evil.py").write_bytes(b"")
    verification = await _verify(workspaces, opened, "test ! -e pipe -a ! -e .git")
    assert verification.ok
    assert verification.tree == opened.base_tree


async def test_without_objectives_the_clean_checkout_is_still_named(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    verification = await _verify(workspaces, opened)
    assert (verification.ok, verification.checks) == (True, ())
    assert verification.tree == opened.base_tree


async def test_what_a_test_run_leaves_is_neither_handed_over_nor_held_against_the_task(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace
) -> None:
    """A patch with somebody's `.pytest_cache` in it is one that nobody wants to apply."""
    work = Path(opened.path)
    (work / "a.py").write_bytes(b"fixed\n")
    for left in (".pytest_cache/README.md", "tests/__pycache__/test_a.cpython-311.pyc"):
        (work / left).parent.mkdir(parents=True)
        (work / left).write_bytes(b"left\n")
    found = await _verify(workspaces, opened, "test ! -e .pytest_cache")
    assert found.ok and found.protected_changed == ()
    changes = await workspaces.changes(TASK, opened.base_tree, found.tree)
    assert [c.path for c in changes] == ["a.py"]


# ---- tests by name -----------------------------------------------------------------------

TELLS = "cat told > ${PYTHONPATH%%/python*}/pytest; exit $(cat code)"
"""A check whose runner reports what lies in `told`."""


def told(mount: str, tests: dict[str, str]) -> bytes:
    facts: list[dict[str, Json]] = [{"start": "9", "root": mount}]
    facts += [{"test": name, "verdict": verdict} for name, verdict in tests.items()]
    facts += [{"end": 1 if "failed" in tests.values() else 0}]
    return b"".join(json.dumps({"session": "1.1", **fact}).encode() + b"\n" for fact in facts)


async def _told(
    workspaces: LocalWorkspaces,
    repo: Repo,
    before: dict[str, str],
    after: dict[str, str],
    *,
    command: str = TELLS,
    **options: Json,
) -> CheckOutcome:
    """A check that tells `before` on the base and `after` on the work."""
    repo.write("told", told(str(repo.path), before))
    repo.write("code", b"1" if "failed" in before.values() else b"0")
    repo.commit()
    opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))
    Path(opened.path, "told").write_bytes(told(str(repo.path), after))
    Path(opened.path, "code").write_bytes(b"0")
    Path(opened.path, "fixed").write_bytes(b"")
    [check] = (await _verify(workspaces, opened, command, **options)).checks
    return check


@pytest.mark.parametrize(
    ("before", "after", "may_lose", "reason"),
    [
        ({"a": "failed", "b": "passed"}, {"a": "passed", "b": "passed", "c": "passed"}, [], ""),
        ({"a": "failed", "b": "passed"}, {"a": "passed"}, [], "tests_lost: 1 of 2: b (gone)"),
        (
            {"a": "failed", "b": "passed"}, {"a": "passed", "new_b": "passed"}, [],
            "tests_lost: 1 of 2: b (gone)",
        ),
        (
            {"a": "failed", "b": "passed"}, {"a": "skipped", "b": "passed"}, [],
            "tests_lost: 1 of 2: a (failed before, skipped now)",
        ),
        (
            {"a": "passed", "b": "passed"}, {"a": "passed", "b": "skipped"}, [],
            "tests_lost: 1 of 2: b (passed before, skipped now)",
        ),
        ({"a": "failed", "b": "passed"}, {"a": "passed"}, ["b*"], ""),
        (
            {"a": "failed"}, {"a": "failed"}, [],
            "exit 0, and its tests failed: a",
        ),
    ],
)  # fmt: skip
async def test_a_good_check_must_not_lose_a_test_by_name(
    workspaces: LocalWorkspaces,
    repo: Repo,
    before: dict[str, str],
    after: dict[str, str],
    may_lose: list[str],
    reason: str,
) -> None:
    """DESIGN 5: the collected test ids must not shrink. As many as before is not enough."""
    check = await _told(workspaces, repo, before, after, may_lose=may_lose)
    assert check.ok is (not reason) and check.reason.startswith(reason)
    assert check.compared is not None and check.compared.unstable.count == 0
    if after.get("a") == "passed" and before["a"] == "failed":
        assert check.compared.mended.names == ["a"]
    added = sorted(after.keys() - before.keys())
    assert check.compared.added.names == added, "a renamed test is lost and new"


async def test_a_runner_that_reported_before_must_report_again(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    """A summary in its place can be printed by anybody."""
    command = f"if [ -e fixed ]; then echo '2 passed in 1s'; else {TELLS}; fi"
    check = await _told(workspaces, repo, {"a": "failed", "b": "passed"}, {}, command=command)
    assert not check.ok
    assert check.reason.startswith("tests_lost: 2 of 2: a (gone), b (gone); if that is meant")


async def test_tests_that_come_and_go_on_the_base_by_themselves_are_named_and_not_lost(
    workspaces: LocalWorkspaces, repo: Repo, tmp_path: Path
) -> None:
    """A name with a random number in it is a new one in every run."""
    once = tmp_path / "once"
    command = f"[ -e fixed -o -e {once} ] || {{ touch {once}; sed -i s/b7/b8/ told; }}; {TELLS}"
    before, after = {"a": "passed", "b7": "passed"}, {"a": "passed", "b9": "passed"}
    check = await _told(workspaces, repo, before, after, command=command)
    assert check.ok and check.compared is not None
    assert (check.compared.unstable.names, check.compared.lost.count) == (["b7", "b8"], 0)


async def test_a_check_that_fails_for_other_tests_each_time_is_flaky(
    workspaces: LocalWorkspaces, repo: Repo, tmp_path: Path
) -> None:
    """None of them surely failed before the work: nothing is proven."""
    once = tmp_path / "once"
    swap = 'sed -i "s/failed/x/; s/passed/failed/; s/x/passed/" told'
    command = f"[ -e fixed -o -e {once} ] || {{ touch {once}; {swap}; }}; {TELLS}"
    before, after = {"a": "failed", "b": "passed"}, {"a": "passed", "b": "passed"}
    check = await _told(workspaces, repo, before, after, command=command)
    assert check.ok and check.flaky and check.compared is not None
    assert check.compared.unstable.names == ["a", "b"]


async def test_a_minimum_of_passed_tests_is_taken_from_the_report(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    command = f"echo '900 passed in 1s'; {TELLS}"
    tests = {"a": "passed", "b": "passed"}
    check = await _told(workspaces, repo, tests, tests, command=command, min_passed=3)
    assert check.reason == "2 passed, expected at least 3"


async def test_names_that_are_printed_are_compared_and_garbled_ones_are_counted(
    workspaces: LocalWorkspaces, repo: Repo
) -> None:
    lines = "test a ... ok\ntest b ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored"
    garbled = lines.replace("test b", "hello test b")
    swapped = lines.replace("test b", "test c")
    for after, good in ((swapped, False), (garbled, True)):
        repo.write("out", lines.encode())
        repo.commit()
        opened = await workspaces.open(TASK, WorkspaceSpec(repo=str(repo.path)))
        Path(opened.path, "out").write_text(after, encoding="utf-8")
        [check] = (await _verify(workspaces, opened, "cat out")).checks
        assert check.ok is good, check.reason
        await workspaces.forget(TASK)


# ---- the counter-check -------------------------------------------------------------------

FAKE = """\
if grep -q fixed a.py; then {after}; fi
printf 'FAILED tests/test_a.py::test_a - no\\n1 failed, 1 passed in 0.1s\\n'; exit 1
"""
LISTENS = "grep -q 'raise Assert' tests/test_a.py || {{ echo '2 passed in 0.1s'; exit 0; }}"
DEAF = "echo '2 passed in 0.1s'; exit 0"


@pytest.mark.parametrize(("after", "ok"), [(LISTENS.format(), True), (DEAF, False)])
async def test_a_check_that_turned_good_must_notice_that_its_tests_are_made_to_fail(
    workspaces: LocalWorkspaces, opened: OpenedWorkspace, after: str, ok: bool
) -> None:
    """Code under test can make its runner say anything."""
    Path(opened.path, "a.py").write_bytes(b"fixed\n")
    [check] = (await _verify(workspaces, opened, FAKE.format(after=after))).checks
    assert (check.ok, check.countered) == (ok, ("tests/test_a.py::test_a",) if ok else ())
    assert ok or "tests/test_a.py::test_a" in check.reason


@pytest.mark.parametrize(
    ("command", "ok", "countered"),
    [
        (f"{LISTENS.format()}; exit 1", True, ("tests/test_a.py",)),
        # The base notices it, the result does not.
        (f"if grep -q fixed a.py; then {DEAF}; fi; {LISTENS.format()}; exit 1", False, ()),
        # Nobody notices it: these tests are not what the check is about.
        (DEAF, True, ()),
        ("exit 0", True, ()),
    ],
)
async def test_a_check_that_was_good_before_must_notice_that_all_tests_are_made_to_fail(
    workspaces: LocalWorkspaces,
    opened: OpenedWorkspace,
    command: str,
    ok: bool,
    countered: tuple[str, ...],
) -> None:
    """A broken result must not pass for one that broke nothing."""
    Path(opened.path, "a.py").write_bytes(b"fixed\n")
    [check] = (await _verify(workspaces, opened, command)).checks
    assert (check.ok, check.countered) == (ok, countered)
