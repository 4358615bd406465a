"""What test runners tell about every test: real runs where they are at hand, else recorded ones."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from agent_runtime.ports import CheckOutcome, SandboxSpec
from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox
from agent_runtime.sandboxes.unsafe import UnsafeSandbox
from agent_runtime.types import Check, Objective
from agent_runtime.verdicts import Seen
from agent_runtime.workspaces.counts import count_tests
from agent_runtime.workspaces.test_reports import Channel, channel, seen_in
from agent_runtime.workspaces.test_reports.places import Places
from agent_runtime.workspaces.verify import run_check
from tests.lean import LEAN_PYTEST

pytestmark = pytest.mark.anyio

RECORDED = Path(__file__).parent / "recorded"
"""Written by go 1.27, cargo 1.95, Python 3.11, node 20 and jest 30."""
PLACES = Places(("/workspace",))
PYTEST = f"{sys.executable} -m pytest -q -p no:cacheprovider"


async def run(
    directory: Path, command: str | list[str], env: dict[str, str] | None = None
) -> CheckOutcome:
    """One check in a directory, without a boundary: what that isolates is tested elsewhere."""
    checkout = directory / "checkout"
    return await run_check(
        Objective(id="o", check=Check(command=command)),
        UnsafeSandbox(str(directory / "state")),
        SandboxSpec(
            owner_id="o", workspace=str(checkout), mount="/workspace", python=sys.prefix,
            # Its temporary files are its own: a pytest removes those of earlier ones.
            env={**LEAN_PYTEST, "PYTEST_DEBUG_TEMPROOT": str(directory), **(env or {})},
        ),
        str(directory / "report"),
    )  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    path = tmp_path / "checkout"
    path.mkdir()
    return path


def write(checkout: Path, **files: str) -> None:
    for name, text in files.items():
        (checkout / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")


# ---- pytest ------------------------------------------------------------------------------

MIXED = """
    import os, subprocess, sys, unittest
    import pytest

    class Thing: pass

    def test_good(): pass
    def test_bad(): assert 0

    @pytest.mark.parametrize("x", [Thing(), Thing()], ids=repr)
    def test_named_by_address(x): pass

    @pytest.mark.skip
    def test_skipped(): pass

    @pytest.mark.xfail
    def test_expected_to_fail(): assert 0

    @pytest.mark.xfail(strict=False)
    def test_unexpectedly_good(): pass

    @pytest.fixture
    def broken(): 1 / 0
    def test_without_its_fixture(broken): pass

    @pytest.fixture
    def untidy():
        yield
        1 / 0
    def test_with_a_bad_end(untidy): pass

    class TestOld(unittest.TestCase):
        def test_a_part_fails(self):
            for number in range(3):
                with self.subTest(number=number): assert number != 1

    def test_a_part_is_skipped(subtests):
        with subtests.test("part"): pytest.skip("no")

    def test_that_starts_pytest(tmp_path):
        (tmp_path / "test_inner.py").write_text("def test_inner(): assert 0")
        done = subprocess.run([sys.executable, "-m", "pytest", str(tmp_path)])
        assert done.returncode == 1

    def test_that_closes_files(): os.closerange(30, 99)

    def documented():
        '''
        >>> 1 + 1
        2
        '''
    """


async def test_pytest_reports_every_test_by_name(tmp_path: Path, checkout: Path) -> None:
    write(checkout, test_mixed=MIXED)
    check = await run(tmp_path, f"{PYTEST} --doctest-modules || true")
    assert check.seen.tests == {
        "test_mixed.py::test_mixed.documented": "passed",
        "test_mixed.py::test_good": "passed",
        "test_mixed.py::test_bad": "failed",
        "test_mixed.py::test_named_by_address[<test_mixed.Thing object at 0x…>]": "passed",
        "test_mixed.py::test_named_by_address[<test_mixed.Thing object at 0x…>] #2": "passed",
        "test_mixed.py::test_skipped": "skipped",
        "test_mixed.py::test_expected_to_fail": "skipped",
        "test_mixed.py::test_unexpectedly_good": "passed",
        "test_mixed.py::test_without_its_fixture": "error",
        "test_mixed.py::test_with_a_bad_end": "error",
        "test_mixed.py::TestOld::test_a_part_fails": "failed",
        "test_mixed.py::test_a_part_is_skipped": "passed",
        "test_mixed.py::test_that_starts_pytest": "passed",
        "test_mixed.py::test_that_closes_files": "passed",
    }
    assert (check.seen.known_by, check.seen.runner) == ("report", "pytest")
    assert (check.passed, check.ran, check.exit) == (8, 12, 0)
    assert check.reason.startswith("exit 0, and its tests failed: test_mixed.py::TestOld::test_a")


@pytest.mark.long
async def test_workers_of_xdist_report_through_their_controller(
    tmp_path: Path, checkout: Path
) -> None:
    write(checkout, test_two="def test_a(): pass\ndef test_b(): assert 0\n")
    check = await run(tmp_path, f"{PYTEST} -n 2")
    assert check.seen.tests == {"test_two.py::test_a": "passed", "test_two.py::test_b": "failed"}


@pytest.mark.long
async def test_directories_with_pytest_runs_of_their_own_are_told_apart(
    tmp_path: Path, checkout: Path
) -> None:
    for name, verdict in (("one", "pass"), ("two", "assert 0")):
        (checkout / name).mkdir()
        (checkout / name / "pytest.ini").write_text("[pytest]\n")
        (checkout / name / "test_it.py").write_text(f"def test_it(): {verdict}\n")
    check = await run(tmp_path, f"(cd one && {PYTEST}); (cd two && {PYTEST})")
    assert check.seen.tests == {
        "one/test_it.py::test_it": "passed",
        "two/test_it.py::test_it": "failed",
    }


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os\nos._exit(0)", "exit 0, and pytest did not come to its end"),
        ("import nothing_of_that_name", "exit 0, and pytest could not collect test_it.py"),
        (
            "import atexit, os\natexit.register(os._exit, 0)\ndef test_bad(): assert 0",
            "exit 0, and its tests failed: test_it.py::test_bad",
        ),
    ],
)
async def test_a_good_exit_code_against_the_report_is_none(
    tmp_path: Path, checkout: Path, source: str, reason: str
) -> None:
    write(checkout, test_it=source)
    check = await run(tmp_path, f"{PYTEST} || true")
    assert not check.ok and check.reason.startswith(reason)


@pytest.mark.long
async def test_what_is_no_session_of_pytest_has_no_end_to_come_to(
    tmp_path: Path, checkout: Path
) -> None:
    write(checkout, test_it="def test_good(): pass")
    check = await run(
        tmp_path, f"{PYTEST} --help && {PYTEST} --markers && {PYTEST} --co && {PYTEST}"
    )
    assert check.ok and check.seen.tests == {"test_it.py::test_good": "passed"}


async def test_what_was_told_cannot_be_taken_back(tmp_path: Path, checkout: Path) -> None:
    """The directory is the check's to read; the pipe only takes, and it takes at once."""
    write(
        checkout,
        conftest="""
            import json, os, sys
            def pytest_sessionfinish(session):
                session.exitstatus = 0
                plugin = sys.modules["agent_runtime_reporting"].__file__
                with open(os.path.dirname(os.path.dirname(plugin)) + "/pytest", "w") as file:
                    for fact in (
                        {"start": "9", "root": str(session.config.rootpath)},
                        {"test": "test_it.py::test_bad", "verdict": "passed"},
                        {"end": 0},
                    ):
                        print(json.dumps({"session": "1.1", **fact}), file=file)
            """,
        test_it="def test_bad(): assert 0",
    )
    check = await run(tmp_path, PYTEST)
    assert check.exit == 0
    assert check.reason.startswith("exit 0, and its tests failed: test_it.py::test_bad")


async def test_noise_in_the_pipe_makes_a_report_no_good(tmp_path: Path, checkout: Path) -> None:
    write(checkout, test_it="def test_good(): pass")
    check = await run(tmp_path, f"echo noise > {tmp_path}/report/pytest; {PYTEST}")
    assert check.seen.tests == {}
    assert check.reason.startswith("exit 0, and the report of pytest cannot be read")


async def test_a_report_that_is_too_long_is_read_and_is_no_good(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("channel", "reading"):
        monkeypatch.setattr(f"agent_runtime.workspaces.test_reports.{module}.BYTES_MAX", 1 << 16)
    check = await run(tmp_path, f"yes | head -c 300000 > {tmp_path}/report/jest")
    assert check.exit == 0 and "the report of jest cannot be read" in check.reason


@pytest.mark.parametrize(
    "command", [f"PYTHONPATH=. {PYTEST}", f"PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 {PYTEST}"]
)
async def test_pytest_runs_as_ever_where_the_plug_in_cannot_be_found(
    tmp_path: Path, checkout: Path, command: str
) -> None:
    """To break a check would be worse than to count its tests."""
    write(checkout, test_it="def test_good(): pass")
    check = await run(tmp_path, command)
    assert check.ok and check.seen == Seen(known_by="count") and check.passed == 1


async def test_what_a_task_sets_itself_stays(tmp_path: Path, checkout: Path) -> None:
    write(checkout, helper="", test_it="import helper2\ndef test_good(): pass")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "helper2.py").write_text("")
    check = await run(tmp_path, PYTEST, {"PYTHONPATH": str(tmp_path / "lib")})
    assert check.ok and check.seen.known_by == "report"
    given = {"NODE_OPTIONS": "--a", "GOFLAGS": "-mod=vendor", "PYTHONPATH": "/lib", "X": "y"}
    assert Channel('/a "b"').variables(given) == {
        "NODE_OPTIONS": '--a --require "/a \\"b\\"/jest_preload.cjs"',
        "GOFLAGS": "-mod=vendor -v",
        "PYTHONPATH": '/a "b"/python:/lib',
        "X": "y",
    }


async def test_the_pipes_only_take(tmp_path: Path) -> None:
    """Also for the user who made them, as far as the mode goes: a sandbox has no capabilities."""
    directory = tmp_path / "report"
    made = Channel(str(directory))
    async with made.opened():
        assert all((directory / name).stat().st_mode & 0o777 == 0o222 for name in channel.PIPES)
        await anyio.to_thread.run_sync((directory / "jest").write_text, "a" * 200_000)
    assert made.told == {"pytest": b"", "jest": b"a" * 200_000}


LOOKS = """
import os
pipe = os.environ["PYTHONPATH"] + "/../pytest"
for flags in (os.O_RDONLY | os.O_NONBLOCK, os.O_RDWR):
    try:
        os.open(pipe, flags)
        print("opened")
    except PermissionError:
        print("refused")
mode = lambda: os.chmod(pipe, 0o666)
for change in (mode, lambda: os.unlink(pipe), lambda: open(pipe + "2", "w")):
    try:
        change()
        print("changed")
    except OSError as error:
        print(os.strerror(error.errno))
print("hello", file=open(pipe, "w"))
"""


async def test_in_a_sandbox_a_report_can_be_written_and_neither_read_nor_replaced(
    tmp_path: Path, checkout: Path
) -> None:
    sandbox = BubblewrapSandbox(str(tmp_path / "state"))
    if not (probe := await sandbox.probe()).ok:
        pytest.skip(probe.detail)
    (checkout / "look.py").write_text(LOOKS, encoding="utf-8")
    check = await run_check(
        Objective(id="o", check=Check(command="python look.py")),
        sandbox,
        SandboxSpec(
            owner_id="o", workspace=str(checkout), mount="/workspace", python=sys.prefix
        ),
        str(tmp_path / "report"),
    )  # fmt: skip
    assert check.output.splitlines() == ["refused"] * 2 + ["Read-only file system"] * 3
    assert check.seen.problems[0].startswith("the report of pytest cannot be read"), "hello came"


async def test_an_error_of_the_sandbox_is_no_group_of_errors(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        async with Channel(str(tmp_path / "report")).opened():
            raise KeyError("a")


# ---- jest --------------------------------------------------------------------------------

JEST = """
    const fs = require('fs');
    const argument = process.argv.find((each) => each.startsWith('--outputFile='));
    console.log(process.argv.slice(2).filter((each) => each !== argument).join(' '));
    if (argument) fs.writeFileSync(argument.slice(13), fs.readFileSync('jest.json'));
    """


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.parametrize(
    ("arguments", "printed", "asked"),
    [("src -t adds", "--json src -t adds", True), ("--listTests", "--listTests", False)],
)
async def test_jest_is_asked_for_its_report_and_keeps_its_options(
    tmp_path: Path, checkout: Path, arguments: str, printed: str, asked: bool
) -> None:
    """A stand-in for jest's own command, with what a real one wrote."""
    script = checkout / "node_modules" / "jest" / "bin" / "jest.js"
    script.parent.mkdir(parents=True)
    script.write_text(textwrap.dedent(JEST))
    shutil.copy(RECORDED / "jest.json", checkout)
    link = checkout / "node_modules" / ".bin" / "jest"
    link.parent.mkdir()
    os.symlink("../jest/bin/jest.js", link)
    check = await run(tmp_path, f"node node_modules/.bin/jest {arguments}")
    assert check.output == printed + "\n"
    assert (check.seen.known_by, check.seen.runner) == (
        ("report", "jest") if asked else ("exit", "")
    )


def test_a_document_of_jest_names_every_test() -> None:
    text = (RECORDED / "jest.json").read_bytes()
    seen = seen_in({"jest": text + b"\n" + text}, "", whole=True, places=PLACES)
    assert seen.tests == {
        "src/a.test.js > math > adds": "passed",
        "src/a.test.js > math > adds #2": "passed",
        "src/a.test.js > math > skips": "skipped",
        "src/a.test.js > math > later": "skipped",
        "src/a.test.js > bad": "failed",
    }
    assert seen.problems[0] == "jest could not run src/b.test.js"


@pytest.mark.parametrize("data", [b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"success": 1}'])
def test_what_is_no_report_of_jest_is_said_to_be_none(data: bytes) -> None:
    seen = seen_in({"jest": data}, "", whole=True, places=PLACES)
    assert seen.tests == {} and seen.problems[0].startswith("the report of jest cannot be read")


# ---- names that are printed --------------------------------------------------------------


def printed(name: str, *, whole: bool = True) -> Seen:
    text = (RECORDED / name).read_text(encoding="utf-8")
    return seen_in({}, text, whole=whole, places=PLACES)


GO = {
    "example.org/m TestAdd": "passed",
    "example.org/m TestBad": "failed",
    "example.org/m TestSkip": "skipped",
    "example.org/m TestTable": "passed",
    "example.org/m TestTable/a_b": "passed",
    "example.org/m TestTable/c/d": "passed",
    "example.org/m FuzzAdd": "passed",
    "example.org/m FuzzAdd/seed#0": "passed",
    "example.org/m ExampleAdd": "passed",
    "example.org/m/sub TestAdd": "passed",
    "example.org/m/sub TestPanic": "passed",
}
CARGO = {
    "demo src/lib.rs tests::it_works": "passed",
    "demo src/lib.rs tests::bad": "failed",
    "demo src/lib.rs tests::slow": "skipped",
    "demo src/lib.rs tests::panics": "passed",
    "it tests/it.rs outside": "passed",
    "demo doc src/lib.rs - add": "passed",
}
UNITTEST = {
    "test_u.T.test_bad": "failed",
    "test_u.T.test_doc": "passed",
    "test_u.T.test_err": "error",
    "test_u.T.test_ok": "passed",
    "test_u.T.test_skip": "skipped",
    "test_u.T.test_sub": "failed",
    "test_u.T.test_xf": "skipped",
    "test_u.T.test_xp": "failed",
}
NODE = {
    "top": "passed",
    "bad": "failed",
    "skipped": "skipped",
    "todo": "skipped",
    "suite > one": "passed",
    "suite > two > inner": "passed",
    "suite > two": "passed",
    "top #2": "passed",
}


@pytest.mark.parametrize(
    ("name", "runner", "tests"),
    [
        ("go.txt", "go test", GO),
        ("go-json.txt", "go test", GO),
        ("cargo.txt", "cargo test", CARGO),
        ("unittest.txt", "unittest", UNITTEST),
        ("node.txt", "node", NODE),
    ],
)
def test_names_are_read_from_what_a_runner_prints(
    name: str, runner: str, tests: dict[str, str]
) -> None:
    seen = printed(name)
    assert (seen.known_by, seen.runner, dict(seen.tests)) == ("output", runner, tests)
    assert printed(name, whole=False).tests == {}, "of a cut output no name is believed"


@pytest.mark.parametrize(
    ("name", "line", "instead"),
    [
        ("cargo.txt", "test tests::it_works ... ok", "test tests::it_works ... hello\nok"),
        ("unittest.txt", "test_ok (test_u.T", "hello test_ok (test_u.T"),
        ("node.txt", "ok 6 - top", "hello ok 6 - top"),
    ],
)
def test_names_that_do_not_come_to_the_number_told_are_not_believed(
    name: str, line: str, instead: str
) -> None:
    """A test printed something in the midst of a line."""
    text = (RECORDED / name).read_text(encoding="utf-8")
    assert line in text
    garbled = text.replace(line, instead, 1)
    seen = seen_in({}, garbled, whole=True, places=PLACES)
    assert seen == Seen(known_by="count")


def test_a_report_is_believed_and_not_what_is_printed_beside_it() -> None:
    lines: Sequence[dict[str, object]] = [
        {"session": "1.1", "start": "9", "root": "/workspace"},
        {"session": "1.1", "found": ["a.py::b", "a.py::c"]},
        {"session": "1.1", "test": "a.py::b", "verdict": "passed"},
        {"session": "2.1", "start": "9", "root": "/tmp/pytest-of-me"},
        {"session": "2.1", "test": "inner.py::test", "verdict": "failed"},
    ]
    told = {"pytest": b"".join(json.dumps(line).encode() + b"\n" for line in lines)}
    output = (RECORDED / "cargo.txt").read_text(encoding="utf-8")
    seen = seen_in(told, output, whole=True, places=PLACES)
    assert seen.tests == {"a.py::b": "passed", "a.py::c": "not_run"}
    assert seen.problems == ("pytest did not come to its end",)


async def test_real_runs_of_unittest_are_named_with_v_and_counted_without(
    tmp_path: Path, checkout: Path
) -> None:
    write(
        checkout,
        test_u="""
            import unittest
            class T(unittest.TestCase):
                def test_good(self): pass
                def test_described(self): '''In words.'''
                @unittest.skip("no")
                def test_skipped(self): pass
            """,
    )
    named = await run(tmp_path, [sys.executable, "-m", "unittest", "-v"])
    assert named.seen.tests == {
        "test_u.T.test_good": "passed",
        "test_u.T.test_described": "passed",
        "test_u.T.test_skipped": "skipped",
    }
    shutil.rmtree(tmp_path / "report")
    counted = await run(tmp_path, [sys.executable, "-m", "unittest"])
    assert (counted.seen.known_by, counted.passed, counted.ran) == ("count", 2, 2)


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
async def test_real_runs_of_node_are_known(tmp_path: Path, checkout: Path) -> None:
    (checkout / "a.test.mjs").write_text(
        "import { test } from 'node:test'; test('good', () => {});"
        " test('no', { skip: 1 }, () => {});"
    )
    check = await run(tmp_path, ["node", "--test", "--test-reporter=tap"])
    assert check.seen.tests == {"good": "passed", "no": "skipped"}
    shutil.rmtree(tmp_path / "report")
    check = await run(tmp_path, ["node", "--test", "--test-reporter=spec"])
    assert (check.seen.known_by, check.passed, check.ran) == ("count", 1, 1)


@pytest.mark.parametrize(
    ("output", "counts"),
    [
        ("Ran 3 tests in 0.1s\n\nOK\n", (3, 3)),
        ("Ran 9 tests in 0.1s\n\nFAILED (failures=2, errors=1, skipped=1)\n", (5, 8)),
        ("Ran 4 tests in 0.1s\n\nOK (skipped=1, expected failures=1)\n", (2, 3)),
        ("\u2139 tests 3\n\u2139 pass 2\n\u2139 fail 1\n", (2, 3)),
        ("Ran 3 tests in 0.1s\nand no more", None),
    ],
)
def test_tests_of_unittest_and_node_are_counted(
    output: str, counts: tuple[int, int] | None
) -> None:
    assert count_tests(output) == counts
