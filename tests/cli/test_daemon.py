"""Verbs that ask a daemon: the same words about the same tasks, driven there and watched here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent_runtime.cli import cli as command_line
from agent_runtime.cli import remote
from agent_runtime.cli.reach import at_once
from tests.api.daemons import DaemonProcess, serving
from tests.cli.conftest import FIX, git, make_repository
from tests.cli.helpers import Cli, Started
from tests.client.daemon import IDLE, client_of, place_of, shell_task, state_of


class There:
    """A daemon, the command line beside it, and a task of its that has succeeded."""

    def __init__(self, home: Path, daemon: DaemonProcess) -> None:
        self.home, self.daemon, self.cli = home, daemon, Cli(home)
        self.client = client_of(daemon)
        self.done = self.cli("submit", "task.yaml", "--follow", "--json")
        assert self.done.code == 0, self.done
        self.task_id: str = self.done.lines()[0]["task_id"]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    home = tmp_path_factory.mktemp("there")
    make_repository(home / "repo")
    (home / "task.yaml").write_text(FIX, encoding="utf-8")
    roots = {"AGENT_RUNTIME_WORKSPACE_ROOTS": str(home)}
    with serving(state_of(home), settings=roots) as daemon:
        found = There(home, daemon)
        with found.client:
            yield found


@pytest.mark.long
def test_a_followed_submission_prints_the_log_s_rows_and_the_result(there: There) -> None:
    *rows, result = there.done.lines()
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert (result["type"], result["status"]) == ("result", "succeeded")
    assert result["patch"].endswith(f"/v1/tasks/{there.task_id}/diff")


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        ["show", "TASK", "--json"], ["show", "TASK"], ["logs", "TASK", "--json"],
        ["report", "TASK"], ["why", "TASK"], ["replay", "TASK"], ["diff", "TASK"],
        ["diff", "TASK", "TASK"], ["artifacts", "TASK"], ["verify", "TASK", "--json"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_verb_says_the_same_about_a_daemon_s_task_and_a_local_one(
    there: There, words: list[str]
) -> None:
    """One path of code: only who drives it is another."""
    words = [there.task_id if word == "TASK" else word for word in words]
    asked, looked = there.cli(*words), there.cli("--local", *words)
    assert (asked.code, looked.code) == (0, 0), (asked, looked)
    ours = f"the daemon at http://127.0.0.1:{there.daemon.port}"
    assert asked.out.replace(f'"{ours}"', "null").replace(ours, "nobody") == looked.out


@pytest.mark.long
def test_lists_and_people_s_wishes(there: There) -> None:
    task_id = there.client.submit({**IDLE, "labels": {"kind": "idle"}}, wait_seconds=20).id
    listed = there.cli("ps", "--label", "kind=idle", "--json").json()
    assert [(t["id"], t["status"], t["interrupted"]) for t in listed] == [
        (task_id, "waiting", False)
    ]
    assert task_id[-8:] in there.cli("top").out
    assert there.cli("steer", task_id[-8:], "Sing.").out == f"told: {task_id[-8:]}\n"
    assert there.cli("pause", task_id).code == 0
    resumed = there.cli("resume", task_id)
    assert resumed.code == 9 and "waiting for a brain" in resumed.err, resumed
    ended = there.cli("cancel", task_id, "--reason", "enough")
    assert ended.code == 0 and "is cancelled" in ended.out
    assert there.cli("resume", task_id).code == 6


@pytest.mark.long
def test_the_inbox_is_the_daemon_s_and_reads_as_a_local_one(
    there: There, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [there.client.submit(IDLE, wait_seconds=20).id for _ in range(3)]
    for words in (["--json"], ["-n", "2"]):
        asked, looked = there.cli("inbox", *words), there.cli("--local", "inbox", *words)
        assert (asked.code, looked.code) == (0, 0), (asked, looked)
        assert (asked.out, asked.err) == (looked.out, looked.err)
    items = there.cli("inbox", "--json").json()
    [waits] = [item for item in items if item["task_id"] == ids[0]]
    assert waits["kind"] == "brain" and waits["since"].endswith("Z")
    assert waits["answers"][-1]["words"] == ["cancel", ids[0][-8:]]
    # More than a page: the pages are put together.
    monkeypatch.setattr(remote, "_PAGE", 1)
    with remote.Remote(place_of(there.daemon)) as daemon:
        found, _ = at_once(daemon.inbox(3))
    assert [item.task_id for item in found] == ids[::-1]
    for task_id in ids:
        there.client.cancel(task_id)
        there.client.wait(task_id)
    assert not {item["task_id"] for item in there.cli("inbox", "--json").json()} & {*ids}


@pytest.mark.long
def test_a_result_is_taken_from_a_daemon(there: There, tmp_path: Path) -> None:
    checkout = make_repository(tmp_path / "elsewhere")
    applied = there.cli("apply", there.task_id, "--to", str(checkout))
    assert (applied.code, applied.out) == (0, "calc.py\n"), applied
    assert "a + b" in (checkout / "calc.py").read_text()
    made = there.cli("apply", there.task_id, "--branch", "fix")
    assert made.code == 0 and "branch fix is" in made.out, made


@pytest.mark.long
def test_continue_and_fork_go_on_in_the_daemon_and_are_watched(there: There) -> None:
    (there.home / "more.yaml").write_text(
        "plan: {steps: [{id: more, tool: shell, args: {command: echo more}}]}", encoding="utf-8"
    )
    forked = there.cli("fork", there.task_id, "--at", "1", "--json")
    assert forked.code == 0 and forked.lines()[-1]["status"] == "succeeded", forked
    fork_id = forked.lines()[-1]["task_id"]
    went_on = there.cli("continue", fork_id, "--file", "more.yaml")
    assert went_on.code == 0 and "succeeded" in went_on.out and "more" in went_on.out, went_on
    assert there.cli("fork", there.task_id, "--at", "1", "--no-run").code == 2
    assert there.cli("verify", fork_id, "--rerun").code == 2


@pytest.mark.long
def test_attach_shows_a_task_and_is_heard(there: There) -> None:
    """Two ways: what happens comes out, what is typed goes in."""
    document = shell_task(
        there.home / "repo", "true", policy={"approvals": {"shell": "ask"}}, objectives=[]
    )
    task_id = there.client.submit(document).id
    asked = there.client.wait(task_id, settled=True)
    assert (asked.status, asked.reason) == ("waiting", "approval")
    assert task_id[-8:] in there.cli("approve").out
    typed = "Look twice.\n/nonsense\n/deny not today\n/detach\n"
    attached = there.cli("attach", task_id, stdin=typed)
    assert attached.code == 130, attached
    for words in ("told: ", "no command /nonsense", "denied: ", "attach"):
        assert words in attached.err, (words, attached)
    events = {event.type: event.fields for event in there.client.events(task_id)}
    assert events["Steered"]["message"] == "Look twice."
    assert events["ApprovalDecided"]["message"] == "not today"
    over = there.cli("attach", task_id, "--json")
    assert over.code == 1 and over.lines()[-1]["type"] == "result", over


@pytest.mark.long
def test_what_the_daemon_refuses_ends_with_its_exit_code(there: There) -> None:
    assert there.cli("show", "nosuchtask").code == 5
    assert there.cli("cancel", there.task_id).code == 6
    assert there.cli("--url", f"http://127.0.0.1:{there.daemon.port}", "--local", "ps").code == 2
    stranger = Cli(there.home, {"AGENT_RUNTIME_TOKEN": "ark_local_wrong"})("ps")
    assert stranger.code == 4 and "AGENT_RUNTIME_TOKEN" in stranger.err
    assert there.cli("resume", there.task_id, "--unsafe-no-sandbox").code == 2


@pytest.mark.long
def test_code_goes_in_and_a_branch_comes_out(there: There, tmp_path: Path) -> None:
    """A repository that the daemon may not read is sent to it, uncommitted edits and all."""
    checkout = make_repository(tmp_path / "outside")
    (checkout / "note.txt").write_text("not committed\n", encoding="utf-8")
    task = tmp_path / "task.yaml"
    task.write_text(
        FIX.replace("./repo", "./outside").replace(
            "grep -q 'a + b' calc.py", "cat note.txt; exit 1"
        )
    )
    done = there.cli("submit", str(task), "--wait")
    assert done.code == 0 and "are sent" in done.err, done
    task_id = done.out.strip()
    assert there.client.get(task_id).repo.startswith("upload:")
    pulled = there.cli("pull", task_id, "--repo", str(checkout), "--branch", "mended", "--json")
    assert pulled.code == 0, pulled
    assert "a + b" in git(checkout, "show", "mended:calc.py")
    assert "a - b" in (checkout / "calc.py").read_text()
    refused = there.cli("publish", task_id, "--to", "https://127.0.0.1:1/x.git", "--pr", "none")
    assert refused.code in (1, 2, 3, 4), refused


@pytest.mark.long
def test_run_drives_its_task_itself_although_a_daemon_serves_the_store(there: There) -> None:
    """Found as a user: the daemon was faster as often as not, and `run` ended with 6."""
    for _ in range(5):
        done = there.cli("run", "task.yaml", "--json")
        assert done.code == 0, done
        assert [row["type"] for row in done.lines()].count("LeaseTaken") == 1


@pytest.mark.long
def test_a_daemon_that_is_not_there_is_7(tmp_path: Path) -> None:
    done = Cli(tmp_path, {"AGENT_RUNTIME_URL": "http://127.0.0.1:1"})("ps")
    assert done.code == 7 and "does not answer" in done.err


@pytest.mark.long
def test_without_a_daemon_a_task_is_stored_for_the_next_one(cli: Cli, repository: Path) -> None:
    done = cli("submit", "Mend it", "--repo", str(repository))
    assert done.code == 0 and "agent-runtime serve" in done.err
    assert cli("show", done.out.strip()).code == 0
    assert cli("submit", "Mend it", "--repo", str(repository), "--wait").code == 2


@pytest.mark.long
def test_asking_a_daemon_imports_neither_settings_nor_stores(there: There) -> None:
    """A verb that only asks must start fast."""
    script = (
        "import sys\nfrom agent_runtime.cli import main\n"
        "for verb in ('inbox', 'ps'):\n"
        " try: main([verb])\n except SystemExit as end: assert end.code == 0\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env=there.cli.environment(), cwd=there.home,
    )  # fmt: skip
    heavy = {
        "anyio",
        "apsw",
        "asyncio",
        "httpx2",
        "jinja2",
        "pydantic",
        "rich",
        "starlette",
        "yaml",
    }
    assert heavy.isdisjoint(done.stderr.split()) and there.task_id[-8:] in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str) -> None:
    done = CliRunner().invoke(command_line, ["completion", shell])
    assert done.exit_code == 0 and "_AGENT_RUNTIME_COMPLETE" in done.output


@pytest.mark.long
def test_verbs_and_a_daemon_s_tasks_are_completed(there: There) -> None:
    for typed, wanted in (("att", "attach"), (f"show {there.task_id[-8:-2]}", there.task_id[-8:])):
        words = {
            "_AGENT_RUNTIME_COMPLETE": "bash_complete", "COMP_WORDS": f"agent-runtime {typed}",
            "COMP_CWORD": str(len(typed.split())),
        }  # fmt: skip
        script = "from agent_runtime.cli import main; main([])"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False,
            env=Cli(there.home, words).environment(),
        )  # fmt: skip
        assert done.stdout.split() == [f"plain,{wanted}"], done


@pytest.mark.long
def test_logs_and_attach_outlive_the_daemon(tmp_path: Path) -> None:
    """DESIGN 8: they survive its restart; nothing is printed twice, and nothing is left out."""
    make_repository(tmp_path / "repo")
    roots = {"AGENT_RUNTIME_WORKSPACE_ROOTS": str(tmp_path)}
    with serving(state_of(tmp_path), settings=roots) as daemon:
        cli = Cli(tmp_path)
        with client_of(daemon) as client:
            task = client.submit(IDLE, wait_seconds=30)
        readers: list[Started] = [
            cli.start("logs", "-f", task.id, "--json"), cli.start("attach", task.id, "--json"),
        ]  # fmt: skip
        for reader in readers:
            reader.wait_for_event("BrainFound")
        daemon.kill()
        daemon.port = 0
        daemon.start()
        with client_of(daemon) as client:
            client.cancel(task.id)
            done = client.wait(task.id)
        for reader, code in zip(readers, (0, 1), strict=True):
            ended = reader.finish()
            assert ended.code == code, ended
            rows = [json.loads(line) for line in ended.out.splitlines()]
            seqs = [row["seq"] for row in rows if row["type"] != "result"]
            assert seqs == list(range(1, done.seq + 1))
