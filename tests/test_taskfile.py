from __future__ import annotations

import io
import json
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import inspect as kinds

from agent_runtime import plan_templates, taskfile
from agent_runtime.documents import load
from agent_runtime.errors import UsageError
from agent_runtime.loop import calls
from agent_runtime.plan_templates import read_template
from agent_runtime.sandboxes import rendering
from agent_runtime.shapes import Problems, Reader, struct_kind
from agent_runtime.task_examples import EXAMPLES
from agent_runtime.taskfile import goal_task, parse_task, read_task_file
from agent_runtime.types import (
    Alternative,
    Check,
    EnvironmentSpec,
    Expect,
    Objective,
    PlanSpec,
    StepSpec,
    TaskSpec,
    WorkspaceSpec,
)

DOCS = Path(__file__).parents[1] / "docs" / "task-file.md"


def read(tmp_path: Path, text: str | bytes) -> TaskSpec:
    file = tmp_path / "task.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_task_file(str(file))


def refused(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    return str(caught.value)


def refusal(document: object) -> str:
    with pytest.raises(UsageError) as caught:
        parse_task(document, base_dir="/base")
    return str(caught.value)


def plan(*steps: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A task with a plan whose steps are shell commands unless they say otherwise."""
    made = [s if {"tool", "goal"} & set(s) else {"tool": "shell", **s} for s in steps]
    return {"goal": "g", "plan": {"steps": made}, **more}


# ---- what is read ------------------------------------------------------------------------


def test_smallest_task_is_a_goal(tmp_path: Path) -> None:
    assert read(tmp_path, "goal: mend it") == TaskSpec(goal="mend it")


def test_json_is_told_by_its_content(tmp_path: Path) -> None:
    """Tabs, escaped pairs and line separators are fine in JSON; YAML would read them otherwise."""
    text = '\t{"goal":"\\ud83d\\ude00 a\u2028b",\n\t"labels":{"a":"no"}}\n'
    assert read(tmp_path, text) == TaskSpec(goal="😀 a\u2028b", labels={"a": "no"})


def test_flow_mapping_is_yaml_although_it_begins_like_json(tmp_path: Path) -> None:
    assert read(tmp_path, "{goal: x, priority: 3}") == TaskSpec(goal="x", priority=3)


def test_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stdin = types.SimpleNamespace(buffer=io.BytesIO(b"goal: x\nworkspace: {repo: ./r}"))
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.chdir(tmp_path)
    assert read_task_file("-").workspace == WorkspaceSpec(repo=f"{tmp_path}/r")


def test_relative_paths_start_at_the_task_file(tmp_path: Path) -> None:
    task = read(tmp_path, "goal: g\nworkspace: {repo: ../r}\nenvironment: {python: ./venv}")
    assert task.workspace == WorkspaceSpec(repo=str(tmp_path.parent / "r"))
    assert task.environment == EnvironmentSpec(python=str(tmp_path / "venv"))


@pytest.mark.parametrize(
    "repo",
    ["https://example.org/a.git", "ssh://git@example.org/a", "git@example.org:a/b.git", "host:a"],
)
def test_git_addresses_are_left_alone(repo: str) -> None:
    task = parse_task({"goal": "g", "workspace": {"repo": repo}}, base_dir="/base")
    assert task.workspace == WorkspaceSpec(repo=repo)


def test_directory_with_a_colon_is_a_path_where_it_exists(tmp_path: Path) -> None:
    (tmp_path / "host:a").mkdir()
    task = parse_task({"goal": "g", "workspace": {"repo": "host:a"}}, base_dir=str(tmp_path))
    assert task.workspace == WorkspaceSpec(repo=f"{tmp_path}/host:a")


def test_command_line_replaces_repository_and_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "task.yaml"
    file.write_text("goal: g\nworkspace: {repo: a, ref: v1}\nmodel: a/b\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    task = read_task_file("sub/task.yaml", repo="r", model="c/d")
    assert task.workspace == WorkspaceSpec(repo=f"{tmp_path}/r", ref="v1")
    assert task.model == "c/d"


def test_sentence_becomes_a_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = WorkspaceSpec(repo=str(tmp_path))
    assert goal_task("mend it", ".") == TaskSpec(goal="mend it", workspace=workspace)
    with pytest.raises(UsageError, match="goal: must not be empty"):
        goal_task(" ", ".")


@pytest.mark.parametrize("model", ["anthropic/claude-x", "a/b/c:free", "http://localhost:1/v1#m"])
def test_model_names_a_provider_or_a_server(model: str) -> None:
    assert parse_task({"goal": "g", "model": model}, base_dir="/").model == model


def test_aliases_stand_for_their_anchors(tmp_path: Path) -> None:
    text = "goal: g\nlabels: {a: &x deep, b: *x}\n"
    assert read(tmp_path, text).labels == {"a": "deep", "b": "deep"}


def test_plan_may_be_a_diamond_with_chained_fallbacks() -> None:
    document = plan(
        {"id": "a"},
        {"id": "b", "needs": ["a"], "fallback": "b2"},
        {"id": "c", "needs": ["a"]},
        {"id": "d", "needs": ["b", "c"], "args": {"x": "{{ steps.a.output }}{{ steps.b.exit }}"}},
        {"id": "b2", "fallback": "b3", "args": {"x": "{{ steps['a'].ok }} ${#y} {% z"}},
        {"id": "b3", "when": "steps.a.ok and 'steps.zz' != goal"},
    )
    assert parse_task(document, base_dir="/").plan is not None


def test_plan_of_a_thousand_steps_is_read_at_once() -> None:
    steps: list[dict[str, Any]] = [{"id": "s0"}]
    for n in range(1, 1000):
        text = "{{ steps.s0.output }}"
        steps.append({"id": f"s{n}", "needs": [f"s{n - 1}"], "args": {"x": text}})
    parsed = parse_task(plan(*steps), base_dir="/").plan
    assert parsed is not None and len(parsed.steps) == 1000


# ---- what is refused ---------------------------------------------------------------------


TEXTS: list[tuple[str | bytes, str]] = [
    ("", "task.yaml: is empty"),
    ("# nothing\n", "is empty"),
    ("null", "is empty"),
    ("- a\n- b", "must hold a mapping with at least `goal`, got a list of 2"),
    ("just words", "must hold a mapping with at least `goal`, got 'just words'"),
    (b"goal: \xff", "task.yaml:1: is not UTF-8: byte 0xff"),
    ("goal: x".encode("utf-16"), "is UTF-16; save it as UTF-8"),
    (b"\x7fELF\0\0", "is a binary file"),
    ("x" * (1 << 20) + "y", "is larger than 1048576 bytes"),
    ("goal: 'x", "malformed YAML"),
    ("a: b: c", "task.yaml:1:5: malformed YAML: mapping values are not allowed"),
    ("goal: x\nplan:\n\tsteps: []", "task.yaml:3:1: malformed YAML"),
    ("goal: x\nplan:\n\tsteps: []", "YAML allows no tabs there: indent with spaces"),
    ('{"goal": "x" "y"}', "task.yaml:1:14: malformed JSON: Expecting ',' delimiter"),
    ("goal: a\ngoal: b", "task.yaml:2: goal: the key stands twice, in lines 1 and 2; keep one"),
    ('{"goal": "a",\n"goal": "b"}', "task.yaml:2: goal: the key stands twice"),
    ("goal: a\n---\ngoal: b", "task.yaml:2: a second document begins; one file holds one"),
    ("goal: g\ntrue: 1", 'task.yaml:2: keys must be strings, and true is read as true; write it'),
    ("goal: g\non: 1", "task.yaml:2: on: unknown key"),
    ("goal: g\n? [a]\n: b", "task.yaml:2: keys must be strings, and this one is a list"),
    ("goal: g\nlabels: {<<: {a: b}}", "merge keys (<<) are not supported"),
    ("goal: !!python/name:os.system", "the tag !!python/name:os.system is not supported"),
    ("goal: !x y", "the tag !x is not supported"),
    ("goal: !!int x", "'x' does not fit its tag !!int"),
    ("goal: *x", "the alias *x has no anchor"),
    ("goal: &x [*x]", "the alias *x stands inside its own anchor"),
    ("goal: g\npriority: " + "9" * 500, "task.yaml:2: a number has 500 digits"),
    ('{"goal": ' + "9" * 5000 + "}", "thousands of digits"),
    ("goal: " + "[" * 100 + "]" * 100, "is nested more than 64 levels deep"),
    ('{"goal": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested more than 64 levels deep"),
    ("goal: a\x07b", "U+0007 is not allowed"),
    ("goal: g\nlabels: {a: no}", "labels.a: must be a string, got no; YAML reads no as false:"),
    ("goal: g\nlabels: {a: no}", "write 'no' in quotes"),
    ("goal: g\nlabels: {v: 1.10}", "task.yaml:2: labels.v: must be a string, got 1.10; write it"),
    ("goal: ~", "goal: must be a string, got ~; give it a value or leave the key out"),
    ("goal: g\nlimits:\n  steps: '3'", "task.yaml:3: limits.steps: must be an integer, got '3'; "),
    ("goal: g\nlimits:\n  steps: '3'", "write 3 without quotes"),
    ("goal: g\nlimits: {seconds: .nan}", "limits.seconds: must be a finite number, got nan"),
    ("goal: g\nlimits: {usd: -.inf}", "limits.usd: must be a finite number, got -inf"),
    ('{"goal": "g", "limits": {"usd": Infinity}}', "limits.usd: must be a finite number"),
    ("goal: g\npriority: 010", "priority: must be an integer, got '010'"),
    ("goal: g\nlimits: {seconds: 1:30}", "limits.seconds: must be a number, got '1:30'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fragment"), TEXTS)
def test_unreadable_text_is_refused(tmp_path: Path, text: str | bytes, fragment: str) -> None:
    assert fragment in refused(tmp_path, text)


def test_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    """Ten lines that stand for 10^9 values."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "holds more than 100000 values" in refused(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("text", ["[" * 500_000, "{a: " * 200_000, "- " * 400_000])
def test_hostile_text_is_refused_at_once(tmp_path: Path, text: str) -> None:
    """libyaml takes minutes to read half a million open brackets to their end."""
    assert "task.yaml: " in refused(tmp_path, f"goal: {text}" if text[0] != "-" else text)


@pytest.mark.long
def test_hints_do_not_cost_minutes() -> None:
    steps = [{"id": f"s{n}", "needs": [f"zzz{n}"]} for n in range(9000)]
    assert len(refusal(plan(*steps)).splitlines()) == 51


def test_long_cycle_is_told_in_short() -> None:
    steps = [{"id": f"s{n}", "needs": [f"s{(n + 1) % 5000}"]} for n in range(5000)]
    assert "s9 → s10 → … → s0; take" in refusal(plan(*steps))


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yaml: does not exist; name a task file"):
        read_task_file(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(UsageError, match="is a directory"):
        read_task_file(str(tmp_path))
    with pytest.raises(UsageError, match="cannot be read"):
        read_task_file("a\0b")


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("written", [None, "x: y", "- 'a', #b", "true", "{", " "])
def test_the_shape_that_a_message_shows_is_yaml_of_that_kind(
    kind: type, written: str | None
) -> None:
    """Whatever was given in its place."""
    problems = Problems()
    Reader(problems, examples=EXAMPLES).read(written or [1], struct_kind(kind), ("key",))
    _, _, shape = problems.lines(name="")[0].partition("; write ")
    value = load(shape, name="shape").value
    again = Problems()
    Reader(again).read(value, struct_kind(kind), ())
    # What was given in the place of a number or a word is still wrong there, and only that.
    assert isinstance(value, dict)
    assert written or not again, again.lines(name="")
    assert not any("unknown key" in line for line in again.lines(name=""))


DOCUMENTS: list[tuple[object, str]] = [
    ({}, "goal: is required and missing"),
    ({"goal": " "}, "goal: must not be empty, got ' '"),
    ({"goal": 7}, "goal: must be a string, got 7; write it in quotes: '7'"),
    ({"goal": "a\0b"}, "goal: must not hold a NUL character"),
    ({"goal": "\ud800"}, "goal: holds half of a surrogate pair"),
    ({"goal": "g", "golas": 1}, "golas: unknown key; did you mean 'goal'? (known: goal, workspace"),
    ({"goal": "g", 1: 2}, "keys must be strings, got 1"),
    ({"goal": "g", "priority": True}, "priority: must be an integer, got true"),
    ({"goal": "g", "priority": 10}, "priority: must be from 0 to 9, got 10"),
    ({"goal": "g", "priority": 5.0}, "priority: must be an integer, got 5.0; write 5"),
    ({"goal": "g", "model": "gpt"}, "model: must be provider/name or http(s)://host/v1#name"),
    ({"goal": "g", "model": "http://x/v1"}, "model: must be provider/name"),
    ({"goal": "g", "model": "http://u:p@x/v1#m"}, "model: must not hold a user or password"),
    ({"goal": "g", "labels": {"a": "x" * 64}}, "labels.a: a label and its value have at most 63"),
    ({"goal": "g", "labels": {"": "x"}}, "a label and its value have at most 63"),
    ({"goal": "g", "labels": "team"}, "labels: must be a mapping, got 'team'; write {team: parse"),
    ({"goal": "g", "workspace": "./p"}, "workspace: must be a mapping, got './p'; write {repo: "),
    ({"goal": "g", "workspace": ["p"]}, "got a list of 1; write {repo: ./project}"),
    ({"goal": "g", "limits": 300}, "limits: must be a mapping, got 300; write {seconds: 300, "),
    ({"goal": "g", "policy": {"approvals": "ask"}}, "got 'ask'; write {shell: ask}"),
    ({"goal": "g", "objectives": [{"id": "a", "check": "pytest: x"}]},
     "objectives[0].check: must be a mapping, got 'pytest: x'; write {command: 'pytest: x', exit"),
    ({"goal": "g", "objectives": "make test"},
     "must be a list, got 'make test'; write [{id: tests, check: {command: make test}}]"),
    ({"goal": "g", "environment": {"services": {"web": {"command": "x"}}}},
     "must be a list, got a mapping of 1; write [{id: db, command: ./start-db, ready: {port"),
    ({"goal": "g", "publish": {"push": "file:///srv/a.git"}, "workspace": {"repo": "r"}},
     "into a repository on this machine `agent-runtime pull` brings the branch"),
    ({"goal": "g", "objectives": {"id": "a"}}, "got a mapping of 1; write it as the one item of a"),
    ({"goal": "g", "protect": "tests"}, "protect: must be a list of strings, got 'tests'; write ["),
    ({"goal": "g", "protect": ["/etc"]}, "protect[0]: must be relative to the repository, got '/e"),
    ({"goal": "g", "protect": ["!/a"]}, "protect[0]: must be relative to the repository, got '!/a"),
    ({"goal": "g", "protect": ["a", "b/../c"]}, "protect[1]: must not hold '..'"),
    ({"goal": "g", "protect": ["!"]}, "protect[0]: must name files, got '!'"),
    ({"goal": "g", "workspace": {}}, "workspace.repo: is required and missing"),
    ({"goal": "g", "workspace": {"repo": "~/x"}}, "workspace.repo: ~ is not expanded"),
    ({"goal": "g", "workspace": {"repo": ""}}, "workspace.repo: must not be empty"),
    ({"goal": "g", "workspace": {"repo": "r", "ref": "--x"}}, "workspace.ref: must name a branch"),
    ({"goal": "g", "workspace": {"repo": "r", "in_place": True, "ref": "v1"}},
     "workspace.ref: must be HEAD with in_place, got 'v1'"),
    ({"goal": "g", "workspace": {"repo": "r", "in_place": True, "include_dirty": False}},
     "workspace.include_dirty: cannot be false with in_place"),
    ({"goal": "g", "workspace": {"repo": "r", "in_place": 1}},
     "workspace.in_place: must be true or false, got 1"),
    ({"goal": "g", "environment": {"env": {"A": 1}}}, "environment.env.A: must be a string, got 1"),
    ({"goal": "g", "environment": {"env": {"A=B": "1"}}}, "environment.env['A=B']: the name of a"),
    ({"goal": "g", "environment": {"setup": "make"}},
     "environment.setup: must be a list, got 'make'"),
    ({"goal": "g", "environment": {"setup": [""]}}, "environment.setup[0]: must not be empty"),
    ({"goal": "g", "environment": {"setup": [[]]}},
     "environment.setup[0]: must begin with a program, got an empty list"),
    ({"goal": "g", "environment": {"setup": ["true"] * 101}},
     "environment.setup: must hold at most 100 commands, got 101; write a script"),
    ({"goal": "g", "environment": {"setup_seconds": 0}},
     "environment.setup_seconds: must be above 0"),
    ({"goal": "g", "environment": {"cache": "for ever"}}, "environment.cache: must be 'lockfile"),
    ({"goal": "g", "environment": {"egress": ["https://x.org"]}}, "environment.egress[0]: is a ho"),
    ({"goal": "g", "environment": {"secrets": ["TOKEN=abc"]}},
     "environment.secrets[0]: must be the name of a variable, got 'TOKEN=abc': its value comes"),
    ({"goal": "g", "policy": {"secrets": ["a b"]}},
     "policy.secrets[0]: must be the name of a variable"),
    ({"goal": "g", "environment": {"services": [{"id": "db", "command": "db"}] * 2}},
     "environment.services[1].id: must be unique; 'db' is also an earlier service's"),
    ({"goal": "g", "environment": {"services": [{"id": "db", "command": "db",
                                                 "ready": {"port": 0}}]}},
     "environment.services[0].ready.port: must be from 1 to 65_535, got 0"),
    *[({"goal": "g", "environment": {"resources": {"memory": value}}},
       f"environment.resources.memory: must be {rule}")
      for value, rule in (
          ("2G", "a number and a unit (KiB, MiB, GiB, TiB, KB, MB, GB, TB) such as 2GiB, got '2G'"),
          ("-1GiB", "a number and a unit"),
          ("", "a number and a unit"),
          ("1e3GiB", "a number and a unit"),
          ("9" * 400 + "GiB", "a number and a unit"),
          ("1MiB", "from 64MiB to 1024TiB, got '1MiB'"),
          ("2000TiB", "from 64MiB to 1024TiB"),
          (2147483648, "a string, got 2147483648; write a number and its unit, such as 2GiB"),
      )],
    ({"goal": "g", "environment": {"resources": {"cpus": 0}}},
     "environment.resources.cpus: must be from 0.05 to 1_024, got 0.0"),
    ({"goal": "g", "environment": {"resources": {"cpus": True}}},
     "environment.resources.cpus: must be a number, got true"),
    ({"goal": "g", "environment": {"resources": {"processes": 1}}},
     "environment.resources.processes: must be from 16 to 65_536, got 1"),
    ({"goal": "g", "environment": {"resources": {"disk": "1MiB"}}},
     "environment.resources.disk: must be from 64MiB to 8TiB, got '1MiB'"),
    ({"goal": "g", "environment": {"resources": {"disk": "many"}}},
     "environment.resources.disk: must be a number and a unit"),
    ({"goal": "g", "environment": {"resources": {"inodes": 5}}},
     "environment.resources.inodes: must be from 1_000 to"),
    ({"goal": "g", "environment": {"resources": {"cpu": 1}}},
     "environment.resources.cpu: unknown key; did you mean 'cpus'?"),
    ({"goal": "g", "limits": {"steps": 0}}, "limits.steps: must be from 1 to 100_000, got 0"),
    ({"goal": "g", "limits": {"usd": -1}}, "limits.usd: must be from 0 to 100_000, got -1"),
    ({"goal": "g", "limits": {"tokens": 10**11}}, "limits.tokens: must be from 0 to 10_000_000_00"),
    ({"goal": "g", "limits": {"tokens": 10**99}}, "limits.tokens: must fit in 64 bits"),
    ({"goal": "g", "limits": {"seconds": 0}}, "limits.seconds: must be above 0 and at most 2_592_"),
    ({"goal": "g", "policy": {"network": "all"}},
     "policy.network: must be 'full' or 'none' or 'restricted', got 'all'"),
    ({"goal": "g", "policy": {"network": "restricted"}},
     "policy.network: needs the hosts that may be reached, as policy.egress: [pypi.org, "),
    ({"goal": "g", "policy": {"egress": ["x:1"]}},
     "policy.egress: allows nothing with network none, got a list of 1; say network: "),
    ({"goal": "g", "policy": {"network": "restricted", "egress": ["*"]}},
     "policy.egress[0]: would be every host; say network: full; got '*'"),
    ({"goal": "g", "policy": {"network": "restricted", "egress": ["a.org", "https://a.org/x"]}},
     "policy.egress[1]: is a host with an optional port, without scheme, user or path; got 'https"),
    ({"goal": "g", "policy": {"approvals": {"shell": "aks"}}},
     "policy.approvals.shell: must be 'allow' or 'ask' or 'deny', got 'aks'; did you mean 'ask'?"),
    ({"goal": "g", "policy": {"approval_seconds": 0}}, "policy.approval_seconds: must be above 0"),
    ({"goal": "g", "policy": {"unknown_effect": "retry"}}, "policy.unknown_effect: must be 'ask'"),
    ({"goal": "g", "objectives": [{"id": "a"}]}, "objectives[0].check: is required and missing"),
    ({"goal": "g", "objectives": [{"id": "a", "check": {"command": ""}}]},
     "objectives[0].check.command: must not be empty"),
    ({"goal": "g", "objectives": [{"id": "a", "check": {"command": []}}]},
     "objectives[0].check.command: must begin with a program, got an empty list"),
    ({"goal": "g", "objectives": [{"id": "a", "check": {"command": ["a", 1]}}]},
     "objectives[0].check.command[1]: must be a string, got 1"),
    ({"goal": "g", "objectives": [{"id": "a", "check": {"command": 1}}]},
     "objectives[0].check.command: must be a string or a list of strings, got 1"),
    ({"goal": "g", "objectives": [{"id": "a", "check": {"command": "x", "exit": 256}}]},
     "objectives[0].check.exit: must be from 0 to 255, got 256"),
    ({"goal": "g", "objectives": [{"id": "a", "check": {"command": "x", "min_passed": -1}}]},
     "objectives[0].check.min_passed: must be from 0"),
    ({"goal": "g", "objectives": [{"id": "a", "check": {"command": "x"}}] * 2},
     "objectives[1].id: must be unique; 'a' is also the id of objectives[0]"),
    ({"goal": "g", "plan": {}}, "plan.steps: is required and missing"),
    ({"goal": "g", "plan": {"steps": []}}, "plan.steps: must hold at least one step"),
    ({"goal": "g", "plan": {"steps": [{"id": "a"}]}}, "plan.steps[0]: needs a `tool`, or a `goal`"),
    ({"goal": "g", "plan": {"steps": ["a"]}}, "plan.steps[0]: must be a mapping, got 'a'"),
    (plan({}), "plan.steps[0].id: is required and missing"),
    (plan({"id": "1a"}), "plan.steps[0].id: must be a letter or _"),
    (plan({"id": "a-b"}), "steps.a_b.output), got 'a-b'"),
    (plan({"id": "a" * 65}), "plan.steps[0].id: must be a letter or _"),
    (plan({"id": "a"}, {"id": "a"}), "plan.steps[1].id: must be unique; 'a' is also the id of pla"),
    (plan({"id": "a", "needs": ["fis"]}, {"id": "fix"}),
     "plan.steps[0].needs[0]: a step needs steps of the same plan, and none has the id 'fis'; did "
     "you mean 'fix'?"),
    (plan({"id": "a"}, {"id": "b", "needs": ["a", "a"]}), "plan.steps[1].needs[1]: 'a' is named t"),
    (plan({"id": "a", "fallback": "zz"}), "plan.steps[0].fallback: a fallback is a step of the pl"),
    (plan({"id": "a", "fallback": "f"}, {"id": "b", "fallback": "f"}, {"id": "f"}),
     "plan.steps[1].fallback: 'f' is already the fallback of 'a'"),
    (plan({"id": "a", "fallback": "f"}, {"id": "f"}, {"id": "c", "needs": ["f"]}),
     "plan.steps[2].needs[0]: 'f' is the fallback of 'a': its result stands for its owner's; need "
     "the owner 'a' instead"),
    (plan({"id": "a", "fallback": "f", "needs": ["f"]}, {"id": "f"}), "it runs only after its own"),
    (plan({"id": "a", "needs": ["a"]}), "plan.steps[0]: steps wait for each other: a → a"),
    (plan({"id": "a", "needs": ["b"]}, {"id": "b", "needs": ["a"]}),
     "steps wait for each other: a → b → a; take one of these needs out"),
    (plan({"id": "a", "fallback": "a"}), "steps wait for each other: a → a ('a' is the fallback o"),
    (plan({"id": "a", "fallback": "f"}, {"id": "f", "needs": ["a"]}), "each other: a → f → a ('f'"),
    (plan({"id": "a", "fallback": "f"}, {"id": "b", "needs": ["a"]}, {"id": "f", "needs": ["b"]}),
     "steps wait for each other: a → f → b → a ('f' is the fallback of 'a' and may not wait for i"),
    (plan({"id": "a", "retry": 101}), "plan.steps[0].retry: must be from 0 to 100, got 101"),
    (plan({"id": "a", "timeout_seconds": 0}), "plan.steps[0].timeout_seconds: must be above 0"),
    (plan({"id": "a", "timeout_seconds": 86401}), "at most 86_400 s (a day), got 86401"),
    (plan({"id": "a", "effect": "reed"}), "plan.steps[0].effect: must be 'read' or 'workspace'"),
    (plan({"id": "a", "effect": "reed"}), "did you mean 'read'?"),
    (plan({"id": "a", "expect": {"exit": -1}}), "plan.steps[0].expect.exit: must be from 0 to 255"),
    (plan({"id": "a", "args": {"x": [float("nan")]}}), "plan.steps[0].args.x[0]: must be a finite"),
    (plan({"id": "a", "args": {"x": 2**64}}), "plan.steps[0].args.x: must fit in 64 bits"),
    (plan({"id": "a", "args": {"x": {1}}}), "plan.steps[0].args.x: must be a JSON value, got a Py"),
    (plan({"id": "a", "tool": "shell", "goal": "x"}), "plan.steps[0].goal: a step has a tool or a"),
    (plan({"id": "a", "goal": "x"}), "plan.steps[0].goal: the model works on a step without a too"),
    *[(plan({"id": "a", "goal": "x", key: value}, model="a/b"),
       f"plan.steps[0].{key}: means nothing on a step of the model")
      for key, value in {"alternative": {"tool": "x"}, "args": {"a": 1}, "retry": 1, "when": "1",
                         "effect": "read", "expect": {"exit": 1}}.items()],
    (plan({"id": "a"}, {"id": "b", "args": {"x": "{{ steps.a.output }}"}}),
     "plan.steps[1].args.x: the template reads the step 'a', whose result is not there yet: add "
     "'a' to the needs of 'b'"),
    (plan({"id": "a", "args": {"x": [{"y": "{{ steps.zz }}"}]}}),
     "plan.steps[0].args.x[0].y: a template reads steps of the same plan, and none has the id 'zz"),
    (plan({"id": "a", "when": "steps.a.ok"}), "plan.steps[0].when: the template reads the result"),
    (plan({"id": "a"}, {"id": "b", "needs": ["a"], "when": "steps['a']['outptu']"}),
     "plan.steps[1].when: a step's result has no 'outptu'; did you mean 'output'?"),
    (plan({"id": "a", "alternative": {"tool": "x", "args": {"y": "{{ steps.b }}"}}}, {"id": "b"}),
     "plan.steps[0].alternative.args.y: the template reads the step 'b'"),
    (plan({"id": "a", "fallback": "f"}, {"id": "f"},
          {"id": "c", "needs": ["a"], "args": {"x": "{{ steps.f.output }}"}}),
     "plan.steps[2].args.x: the template reads 'f', which runs only as the fallback of 'a'"),
    (plan({"id": "a", "fallback": "f"}, {"id": "f", "args": {"x": "{{ steps.a.output }}"}}),
     "plan.steps[1].args.x: the template reads 'a', whose fallback this step is"),
    (plan({"id": "a", "args": {"x": "docker -f '{{.State}}'"}}), "is no template expression"),
    (plan({"id": "a", "args": {"x": "{{ step.a }}"}}), "a template knows steps and goal, not 'ste"),
    (plan({"id": "a", "args": {"x": "{{ goal | qoute }}"}}), "is no filter 'qoute' in express"),
    (plan({"id": "a", "args": {"x": "{{ goal is strng }}"}}), "there is no test 'strng' in"),
    (plan({"id": "a", "args": {"x": "{{ goal }}", "y": ["{% if x %}"]}}),
     "plan.steps[0].args.y[0]: a template has only expressions {{ … }}, no statements and no comm"),
    (plan({"id": "a", "args": {"x": "{{ " + "(" * 5000 + " }}"}}), "plan.steps[0].args.x: "),
    (None, "the task is empty"),
    ([], "the task must hold a mapping"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "fragment"), DOCUMENTS)
def test_wrong_document_is_refused(document: object, fragment: str) -> None:
    text = refusal(document)
    assert fragment in text
    assert all(line.strip() for line in text.splitlines())


def test_problems_are_told_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = refused(
        tmp_path,
        "goal: g\npriority: 11\nplan:\n  steps:\n    - {id: a, tol: x}\n    - id: b\n"
        "      tool: shell\n      needs: [c]\nlimits: {steps: x}\n",
    )
    lines = [line.removeprefix(f"{tmp_path}/") for line in text.splitlines()]
    assert [":".join(line.split(":")[:3]) for line in lines] == [
        "task.yaml:2: priority",
        "task.yaml:5: plan.steps[0].tol",
        "task.yaml:8: plan.steps[1].needs[0]",
        "task.yaml:9: limits.steps",
    ]


def test_thousand_problems_do_not_make_a_thousand_lines() -> None:
    lines = refusal({"goal": "g", "protect": [1] * 1000}).splitlines()
    assert len(lines) == 51 and lines[-1] == "and 950 more"


# ---- properties --------------------------------------------------------------------------


def keys_of(kind: kinds.Type) -> Iterator[str]:
    """Every key of the task file."""
    match kind:
        case kinds.StructType(fields=fields):
            for field in fields:
                yield field.encode_name
                yield from keys_of(field.type)
        case kinds.ListType(item_type=item):
            yield from keys_of(item)
        case kinds.UnionType(types=choices):
            for choice in choices:
                yield from keys_of(choice)
        case _:
            pass


KEYS = sorted(set(keys_of(kinds.type_info(TaskSpec))))
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["a", "b", "{{ steps.a.output }}", "{{", "shell", "none", "../x", "./r"])
)  # fmt: skip
json_like = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=25,
)


@given(json_like)
@example({"goal": "g", "plan": {"steps": [{"id": "a", "tool": "t", "needs": "a"}]}})
@settings(max_examples=150, deadline=None)
def test_any_json_is_a_task_or_a_usage_error(document: object) -> None:
    try:
        task = parse_task(document, base_dir="/base")
    except UsageError as error:
        assert str(error)
    else:
        again = msgspec.json.decode(msgspec.json.encode(task), type=TaskSpec)
        assert again == task, "the log keeps what was read"


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(list("{}[]:-,&*!|>'\"#%@ \n\tab0.~?<"))).map("".join)
)
@settings(max_examples=250, deadline=None)
def test_any_text_is_a_document_or_a_usage_error(text: str) -> None:
    try:
        load(text, name="f")
    except UsageError as error:
        assert str(error).startswith("f:")


printable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
free = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | printable
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(printable, inner, max_size=3),
    max_leaves=5,
).filter(lambda value: "{{" not in json.dumps(value))  # fmt: skip


@st.composite
def specs(draw: st.DrawFn) -> TaskSpec:
    """Valid tasks: a step needs earlier ones."""
    ids = [f"s{n}" for n in range(draw(st.integers(0, 4)))]
    steps = [
        StepSpec(
            id=step_id,
            tool=draw(printable),
            args=draw(st.dictionaries(printable, free, max_size=3)),
            needs=draw(st.lists(st.sampled_from(ids[:at]), unique=True)) if at else [],
            when=draw(st.none() | st.just("goal == 'x'")),
            expect=draw(st.none() | st.builds(Expect, exit=st.integers(0, 255))),
            retry=draw(st.integers(0, 100)),
            timeout_seconds=draw(st.none() | st.floats(0.1, 86_400)),
            alternative=draw(st.none() | st.builds(Alternative, tool=printable)),
        )
        for at, step_id in enumerate(ids)
    ]
    command = printable | st.lists(printable, min_size=1, max_size=3)
    checks = st.builds(Check, command=command, exit=st.integers(0, 255))
    return TaskSpec(
        goal=draw(printable),
        workspace=draw(st.none() | st.just(WorkspaceSpec(repo="/r", ref="v1"))),
        environment=draw(st.builds(EnvironmentSpec, env=st.just({"A": "no", "B": "1.0"}))),
        model=draw(st.none() | st.just("a/b")),
        plan=PlanSpec(steps=steps) if steps else None,
        objectives=[Objective(id="o", check=check) for check in draw(st.lists(checks, max_size=1))],
        labels=draw(st.dictionaries(printable, printable, max_size=3)),
        priority=draw(st.integers(0, 9)),
    )


class Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2 reads as a number and PyYAML, of version 1.1, does not: `0E0`."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if re.match(r"[-+.]?[0-9]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


Dumper.add_representer(str, _text)


@given(specs())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_valid_task_survives_yaml_and_json(task: TaskSpec) -> None:
    plain = msgspec.to_builtins(task)
    for text in (
        yaml.dump(plain, Dumper=Dumper, allow_unicode=True),
        yaml.dump(plain, Dumper=Dumper, default_flow_style=True),
        json.dumps(plain),
        json.dumps(plain, ensure_ascii=False, indent="\t"),
    ):
        document = load(text, name="f")
        assert document.problems == []
        assert parse_task(document.value, base_dir="/base") == task


# ---- the documentation -------------------------------------------------------------------


def tables() -> dict[str, dict[str, str]]:
    """Section of the docs -> its keys, each with the default that its table tells."""
    found: dict[str, dict[str, str]] = {}
    body = DOCS.read_text(encoding="utf-8").split("## Every key")[1].split("## How a plan runs")[0]
    for section in re.split(r"^### ", body, flags=re.M)[1:]:
        name = section.splitlines()[0].strip("` ")
        rows = re.findall(r"^\| `(\w+)` \| .*? \| (.*?) \|", section, flags=re.M)
        found["" if name == "The task" else name] = dict(rows)
    return found


def expected_tables(kind: kinds.Type, path: str) -> Iterator[tuple[str, dict[str, str]]]:
    match kind:
        case kinds.StructType(fields=fields):
            yield path, {field.encode_name: told_default(field) for field in fields}
            for field in fields:
                below = f"{path}.{field.encode_name}" if path else field.encode_name
                yield from expected_tables(field.type, below)
        case kinds.ListType(item_type=item):
            yield from expected_tables(item, f"{path}[]")
        case kinds.UnionType(types=choices):
            for choice in choices:
                yield from expected_tables(choice, path)
        case _:
            pass


def told_default(field: kinds.Field) -> str:
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{json.dumps(field.default_factory())}`"
    if isinstance(field.default, msgspec.Struct):
        return "`{}`"
    return f"`{json.dumps(field.default)}`"


def test_docs_tell_every_key_with_its_default_and_no_other() -> None:
    assert tables() == dict(expected_tables(kinds.type_info(TaskSpec), ""))


def test_examples_of_the_docs_are_tasks(tmp_path: Path) -> None:
    text = DOCS.read_text(encoding="utf-8")
    found = re.findall(r"<!-- example[^\n]*\n```yaml\n(.*?)```", text, flags=re.S)
    assert len(found) == 3
    task, careful, networked = (read(tmp_path, text) for text in found)
    assert task.plan is not None and len(task.plan.steps) == 4
    assert careful.policy.approvals["shell(git push*)"] == "deny"
    assert networked.policy.network == "restricted" and len(networked.policy.egress) == 6


def test_other_yaml_of_the_docs_is_read(tmp_path: Path) -> None:
    text = re.sub(r"<!-- continuation.*?```yaml.*?```", "", DOCS.read_text(), flags=re.S)
    for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.S):
        read(tmp_path, block if "goal:" in block else "goal: g\n" + block)


def test_results_that_templates_read_are_those_the_loop_gives() -> None:
    source = Path(calls.__file__).read_text(encoding="utf-8")
    given_keys = re.search(r"results\[step_id\] = \{(.*?)\}", source)
    assert given_keys is not None
    assert re.findall(r'"(\w+)":', given_keys[1]) == list(plan_templates.RESULT_KEYS)
    variables = re.search(r"variables = \{(.*?)\}\n", source)
    assert variables is not None
    assert re.findall(r'"(\w+)":', variables[1]) == list(plan_templates.VARIABLES)


@pytest.mark.parametrize(
    "text",
    [
        "{{ steps.a.output }}",
        "x {{ steps['a'].exit }} y {{ goal | upper }}",
        "{{ steps.a.exit == 1 }}",
        "{{ {'a': {'b': 1}} }}",
        "{{ '}}' }}",
        "{{ '{{' }}",
        "${#x} {{ goal }}",
        "{{ range(3) | list }}",
        "{{ steps.items.ok }}",
        "{{",
        "{{ goal",
        "{{ }}",
        "{{ .State }}",
        "{{ goal }} {% if x %}",
        "{{ goal }} {# no #}",
        "{{ gaol }}",
        "{{ lipsum() }}",
        "{{ steps.a. }}",
        "{{ goal | }}",
        "{{ goal | quote }}",
        "{{ goal | quoet }}",
        "{{ goal is string }}",
        "{{ goal is strong }}",
        "{{ goal }} }}",
        "{{ a b }}",
        "{% raw %}+ {{ | }} {% if %}{% endraw %}",
        " {% raw %}{{ x }}{% endraw %}\n",
        "{% raw %}{{ x }}{% endraw %} {{ | }}",
        "{% raw %}{{ x }}",
    ],
)
def test_template_is_refused_here_exactly_if_it_cannot_be_filled(text: str) -> None:
    """The sandbox's renderer decides; the task file only tells it earlier."""
    result = {"output": "x", "exit": 1, "ok": True}
    variables = {"steps": {"a": result, "items": result}, "goal": "g"}
    try:
        rendering.fill_string(rendering.Expressions(), text, variables)
        fills = True
    except rendering.Fault:
        fills = False
    assert (not read_template(text)[1]) == fills


def test_every_rule_is_about_a_field_that_exists() -> None:
    ruled = taskfile._RULES
    assert all(name in owner.__struct_fields__ for owner, name in ruled)  # type: ignore[attr-defined]
    assert not any(name in owner.__struct_fields__ for owner, name in taskfile._RETIRED)  # type: ignore[attr-defined]
