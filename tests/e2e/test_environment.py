"""Environments as a user has them: set up once, kept, the same for every check. No network."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import CommandLine, chain, git

CANARY = "c4nary-Value/0x1f"
CHECK = "python check.py"
VENV = ["python3", "-m", "venv", "--without-pip", ".venv"]
INSTALL = (
    "set -- .venv/lib/python3.*/site-packages; printf 'ANSWER = 42\\n' > \"$1/answer.py\"; "
    "echo installed"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """It needs the module `answer`, and says 41."""
    where = tmp_path / "project"
    where.mkdir()
    (where / "value.py").write_text("VALUE = 41\n", encoding="utf-8")
    (where / "check.py").write_text(
        "import answer, value\nassert value.VALUE == answer.ANSWER, value.VALUE\n", encoding="utf-8"
    )
    git(where, "init", "-q")
    commit(where)
    return where


def commit(where: Path) -> None:
    git(where, "add", "-A")
    git(where, "commit", "-qm", "one")


FIX = {
    "id": "fix",
    "tool": "edit_file",
    "args": {"path": "value.py", "edits": [{"oldText": "41", "newText": "42"}]},
}


def task(project: Path, *before: str, check: str = CHECK, **more: Any) -> dict[str, Any]:
    """Fix it, after some commands of the agent's."""
    steps: list[dict[str, Any]] = [
        {"id": f"before{number}", "tool": "shell", "args": {"command": command}}
        for number, command in enumerate(before)
    ]
    steps = chain([*steps, FIX])
    return {
        "goal": "The value is the answer",
        "workspace": {"repo": str(project)},
        "plan": {"steps": steps},
        "objectives": [{"id": "value", "check": {"command": check}}],
        **more,
    }


def prepared(lines: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [line["data"] for line in lines if line["type"] == "EnvironmentPrepared"]
    return dict(found)


def outputs(lines: list[dict[str, Any]]) -> list[str]:
    return [line["data"]["output"] for line in lines if line["type"] == "CallReturned"]


@pytest.mark.long
def test_a_repositorys_own_file_sets_up_once_and_the_second_start_is_warm(
    cli: CommandLine, project: Path
) -> None:
    own = {"environment": {"setup": [VENV, INSTALL], "env": {"GREETING": "hello"}}}
    (project / ".agent-runtime.yaml").write_text(json.dumps(own), encoding="utf-8")
    commit(project)
    look = "which python; echo $GREETING; ls -A; touch .venv/x"
    for is_second in (False, True):
        code, lines = cli.run(task(project, f"{{ {look}; }} 2>&1 || true"))
        assert (code, lines[-1]["status"]) == (0, "succeeded"), lines[-1]["reason"]
        event = prepared(lines)
        assert event["cached"] is is_second
        found = event["environment"]
        assert found["source"] == ".agent-runtime.yaml"
        assert (found["mounted"], found["copied"]) == ([".venv"], [])
        assert found["python"] == str(project / ".venv")
        which, greeting, *_, refused = outputs(lines)[0].splitlines()
        assert (which, greeting) == (str(project / ".venv/bin/python"), "hello")
        assert "Read-only file system" in refused
        ended = next(line for line in lines if line["type"] == "VerificationEnded")["data"]
        assert (ended["changed"], ended["grade"]) == (["value.py"], "proven")
    task_id = lines[-1]["task_id"]
    report = cli("report", task_id).stdout
    assert "the environment, kept from an earlier setup by `.agent-runtime.yaml`" in report
    again = cli("verify", task_id, "--rerun")
    assert again.returncode == 0, again.stderr
    # A new version of what the environment is made from needs a setup of its own.
    (project / "requirements.txt").write_text("", encoding="utf-8")
    commit(project)
    _, lines = cli.run(task(project))
    assert prepared(lines)["cached"] is False
    shown = json.loads(cli("gc", "--older-than", "0", "--json").stdout)
    assert len(shown["environments"]) == 2
    gone = cli("verify", task_id, "--rerun")
    assert gone.returncode == 5


def test_what_setup_builds_is_copied_and_no_check_sees_what_the_work_did_to_it(
    cli: CommandLine, project: Path
) -> None:
    """HOME, build outputs and a stray file are fresh for each check; nothing of them is handed
    over."""
    setup = [
        "mkdir -p build ~/data && echo built > build/out && echo good > stray.txt",
        "echo good > ~/data/state && chmod 700 ~/data && echo more >> value.py",
    ]
    poison = "rm -r build && echo evil > ~/data/state && echo evil > stray.txt && mkdir build"
    check = "test $(cat ~/data/state stray.txt | tr -d '\\n') = goodgood && cat build/out value.py"
    given = {"environment": {"setup": setup}}
    code, lines = cli.run(
        task(project, "cat build/out stray.txt ~/data/state", poison, check=check, **given)
    )
    assert (code, lines[-1]["status"]) == (0, "succeeded"), lines[-1]["reason"]
    event = prepared(lines)
    assert event["environment"]["copied"] == ["build", "stray.txt"]
    assert event["notes"] == [
        "setup changed files of the repository, and this is not kept: value.py"
    ]
    assert outputs(lines)[0].split() == ["built", "good", "good"]
    ended = next(line for line in lines if line["type"] == "VerificationEnded")["data"]
    assert ended["changed"] == ["value.py"]
    assert ended["checks"][0]["output"].split() == ["built", "VALUE", "=", "42"]


@pytest.mark.long
def test_maintenance_brings_a_kept_environment_to_another_version(
    cli: CommandLine, project: Path
) -> None:
    """Without it, what was built from the sources is built anew for another version."""
    environment = {
        "setup": ["mkdir -p build && date +%N > build/made && cp val*.py build/"],
        "maintenance": ["cp val*.py build/"],
    }
    built = []
    for version in ("41", "40"):
        (project / "value.py").write_text(f"VALUE = {version}\n", encoding="utf-8")
        edits = [{"oldText": version, "newText": "42"}]
        fix = {**FIX, "args": {"path": "value.py", "edits": edits}}
        check = "cat build/made build/value.py && grep -q 42 value.py"
        code, lines = cli.run(
            {
                **task(project, check=check, environment=environment),
                "plan": {"steps": [fix]},
            }
        )
        assert code == 0, lines
        ended = next(line for line in lines if line["type"] == "VerificationEnded")["data"]
        built.append(ended["checks"][0]["output"].split())
    assert built[0][0] == built[1][0], "only maintenance ran for the second version"
    assert [words[-1] for words in built] == ["41", "40"]


def test_a_setup_that_fails_fails_the_task_with_its_words_and_leaves_nothing(
    cli: CommandLine, project: Path
) -> None:
    setup = ["touch half", "echo the reason >&2; exit 3"]
    code, lines = cli.run(task(project, environment={"setup": setup, "egress": []}))
    assert (code, lines[-1]["status"]) == (1, "failed")
    reason = lines[-1]["reason"]
    assert "`echo the reason >&2; exit 3` ended with exit 3" in reason
    assert "it has no network" in reason and reason.endswith("the reason")
    kept = cli.home / "state" / "environments"
    assert list(kept.iterdir()) == []


def test_a_setup_that_nobody_asked_for_may_fail_and_that_is_said(
    cli: CommandLine, project: Path
) -> None:
    (project / ".devcontainer.json").write_text(
        '{"image": "x", "postCreateCommand": "touch left; exit 4"}', encoding="utf-8"
    )
    commit(project)
    code, lines = cli.run(task(project, "ls -A", check="true"))
    assert code == 0, lines
    notes = prepared(lines)["notes"]
    assert notes[0] == ".devcontainer.json: ignored image"
    assert notes[1].startswith("the task goes on without: setup by .devcontainer.json")
    assert "left" not in outputs(lines)[0].split()


def test_secrets_reach_setup_and_nothing_that_is_kept(cli: CommandLine, project: Path) -> None:
    """Row 6: in no later process, log, event, blob, tree, report."""
    cli.extra["AGENT_RUNTIME_SECRETS"] = "DEPLOY_TOKEN=env:SOME_TOKEN"
    cli.extra["SOME_TOKEN"] = CANARY
    setup = [
        'test -n "$DEPLOY_TOKEN"',
        "echo token: $DEPLOY_TOKEN; printf %s $DEPLOY_TOKEN | base64; env",
        # In one of the repository's own files, at the top, in .git: none is in any version later.
        "echo $DEPLOY_TOKEN >> value.py; echo $DEPLOY_TOKEN > .npmrc; git config t.t $DEPLOY_TOKEN",
        'mkdir -p build; echo "//registry/:_authToken=$DEPLOY_TOKEN" > ~/.npmrc; '
        "printf '%s' \"user:$DEPLOY_TOKEN\" | base64 > build/auth; echo fine > build/fine",
    ]
    files = "~/.npmrc .npmrc .git/config build/auth build/fine"
    look = f"env; cat {files}; cat /proc/*/environ | tr '\\0' '\\n'; true"
    code, lines = cli.run(
        task(
            project,
            look,
            check='env; cat build/*; test -z "$DEPLOY_TOKEN"',
            environment={"setup": setup, "secrets": ["DEPLOY_TOKEN"]},
        )
    )
    assert (code, lines[-1]["status"]) == (0, "succeeded"), lines[-1]["reason"]
    changed, note = prepared(lines)["notes"]
    assert changed == "setup changed files of the repository, and this is not kept: value.py"
    assert note == (
        "not kept from setup, for a secret stood in it: home/.npmrc, work/.npmrc, work/build/auth"
    )
    task_id = lines[-1]["task_id"]
    verbs = (["report", task_id], ["show", task_id, "--json"], ["logs", task_id])
    printed = [json.dumps(lines), *(cli(*verb).stdout for verb in verbs)]
    assert not any(CANARY in text for text in printed)
    needles = (CANARY.encode(), b"YzRuYXJ5", b"Y0bmFyeS1WYWx1ZS8weDFm")
    for place, _, names in os.walk(cli.home / "state"):
        for name in names:
            data = Path(place, name).read_bytes()
            assert not any(needle in data for needle in needles), f"{place}/{name}"
    stored = subprocess.run(
        "for id in $(git cat-file --batch-all-objects --batch-check='%(objectname)'); "
        "do git cat-file -p $id; done",
        shell=True, cwd=next((cli.home / "state" / "workspaces").glob("*/trees/store")),
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert b"41" in stored and not any(needle in stored for needle in needles)
    blob = cli("show", task_id, "--json").stdout
    assert json.loads(blob)["environment"]["output_blob"]


def test_a_granted_secret_reaches_tools_and_services_and_no_event(
    cli: CommandLine, project: Path
) -> None:
    cli.extra["AGENT_RUNTIME_SECRETS"] = "DEPLOY_TOKEN=env:SOME_TOKEN"
    cli.extra["SOME_TOKEN"] = CANARY
    code, lines = cli.run(
        task(
            project,
            "echo got ${#DEPLOY_TOKEN}: $DEPLOY_TOKEN; "
            "cat /tmp/services/own.log; grep -c DEPLOY /proc/1/cmdline; true",
            check='test -z "$DEPLOY_TOKEN" && grep -q 42 value.py',
            policy={"secrets": ["DEPLOY_TOKEN"]},
            environment={
                "setup": [],
                "services": [
                    {
                        "id": "own",
                        "command": "echo ${#DEPLOY_TOKEN}; : > /tmp/up",
                        "ready": {"command": "test -e /tmp/up"},
                    }
                ],
            },
        )
    )
    assert code == 0, lines
    length = len(CANARY)
    # The last: no command line, which every user of the host can read, names it.
    assert outputs(lines)[0].split("\n")[:3] == [
        f"got {length}: [secret DEPLOY_TOKEN]", str(length), "0",
    ]  # fmt: skip
    assert CANARY not in json.dumps(lines)


def test_a_secret_that_nobody_knows_is_refused_at_once(cli: CommandLine, project: Path) -> None:
    done = cli("run", str(cli.write(task(project, environment={"secrets": ["TOKEN"]}))))
    assert done.returncode == 2
    assert "environment.secrets: the installation knows no secret 'TOKEN' (known: none)" in (
        done.stderr
    )


SERVER = """import socket, sys, pathlib
state = pathlib.Path.home() / "data"
listener = socket.create_server(("127.0.0.1", 7777))
print("listening", flush=True)
while True:
    with listener.accept()[0] as peer:
        state.write_text(state.read_text() + "x") if peer.recv(10) else None
"""
ASK = (
    "import socket; s = socket.create_connection(('127.0.0.1', 7777)); s.sendall(b'go'); "
    "s.shutdown(1); s.recv(1)"
)


def test_services_run_beside_tools_and_beside_every_check(cli: CommandLine, project: Path) -> None:
    """They keep their state for the tools; a check finds it as setup left it."""
    (project / "server.py").write_text(SERVER, encoding="utf-8")
    commit(project)
    environment = {
        "setup": ["printf x > ~/data"],
        "services": [
            {"id": "db", "command": "exec python3 server.py", "ready": {"port": 7777}},
            {"id": "late", "command": "true", "ready": {"command": "test -s /tmp/services/db.log"}},
        ],
    }
    ask = f'python3 -c "{ASK}"; cat ~/data'
    code, lines = cli.run(
        task(
            project,
            ask,
            ask,
            check=f"{ask} && grep -q 42 value.py && test $(cat ~/data) = xx",
            environment=environment,
        )
    )
    assert (code, lines[-1]["status"]) == (0, "succeeded"), lines[-1]["reason"]
    assert outputs(lines)[:2] == ["xx", "xxx"]


def test_a_service_that_does_not_come_up_is_named_with_its_words(
    cli: CommandLine, project: Path
) -> None:
    service = {"id": "db", "command": "echo no disk >&2; exit 7", "ready": {"port": 1}}
    code, lines = cli.run(task(project, "true", environment={"setup": [], "services": [service]}))
    assert code == 1
    failed = next(line for line in lines if line["type"] == "PreparationFailed" or
                  line["type"] == "CallReturned")["data"]  # fmt: skip
    said = failed.get("message") or failed.get("output")
    assert "service 'db' ended with exit 7" in said and "no disk" in said


def test_in_place_the_users_own_directory_gets_nothing_of_a_setup(
    cli: CommandLine, project: Path
) -> None:
    given = task(project, environment={"setup": [VENV, INSTALL, "echo x > stray"]})
    given["workspace"]["in_place"] = True
    # A root's sandbox runs as somebody else, who must be let in.
    subprocess.run(["chmod", "-R", "a+rwX", str(project)], check=True)
    code, lines = cli.run(given)
    assert (code, lines[-1]["status"]) == (0, "succeeded"), lines[-1]["reason"]
    assert prepared(lines)["notes"] == [
        "not put into your directory: stray, which setup built there"
    ]
    left = {path.name for path in project.iterdir()} - {".git", ".venv"}
    assert left == {"value.py", "check.py"}
    assert not (project / ".venv").exists() or not any((project / ".venv").iterdir())


def test_a_link_where_the_environment_belongs_is_no_way_out(
    cli: CommandLine, project: Path
) -> None:
    """The work may leave a link in the place of a venv: then nothing is proven."""
    fake = "mv .venv old 2>/dev/null; mkdir -p sub/fake; mv sub sub2; ln -s /tmp sub; true"
    environment = {"setup": ["mkdir sub", ["python3", "-m", "venv", "--without-pip", "sub/.venv"]]}
    code, lines = cli.run(task(project, fake, check="true", environment=environment))
    assert code == 1
    ended = next(line for line in lines if line["type"] == "VerificationEnded")["data"]
    assert not ended["ok"]


def test_without_a_sandbox_a_setup_is_refused(cli: CommandLine, project: Path) -> None:
    path = cli.write(task(project, environment={"setup": ["true"]}))
    done = cli("run", str(path), "--unsafe-no-sandbox")
    assert done.returncode == 1
    assert "cannot show its result at the places where it was made" in done.stdout + done.stderr


@pytest.mark.long
def test_a_fork_has_the_same_environment_in_its_own_working_copy(
    cli: CommandLine, project: Path
) -> None:
    """What setup built, and its HOME, are put in again; setup does not run a second time."""
    (project / ".gitignore").write_text("built/\n", encoding="utf-8")
    commit(project)
    build = "mkdir built && echo 42 > built/answer && echo kept > ~/note"
    look = 'cat built/answer ~/note; test "$(cat built/answer)" = 42'
    spec = task(project, look, check="grep -q 42 value.py", environment={"setup": [build]})
    code, lines = cli.run(spec)
    assert (code, prepared(lines)["environment"]["copied"]) == (0, ["built"]), lines[-1]
    at = next(line["seq"] for line in lines if line["type"] == "CallIntended") - 1
    while (done := cli("fork", lines[-1]["task_id"], "--at", str(at), "--json")).returncode == 6:
        at -= 1
    assert done.returncode == 0, done.stderr
    forked = [json.loads(line) for line in done.stdout.splitlines()]
    assert outputs(forked)[0].split() == ["42", "kept"]
    assert not [line for line in forked if line["type"] == "EnvironmentPrepared"]
    told = cli("diff", lines[-1]["task_id"], forked[-1]["task_id"])
    assert "the same, but for ids, times and hashes" in told.stdout, told.stdout
