"""Reading a task: from a file, a JSON body or a sentence, to a `TaskSpec` that makes sense.

Everything wrong is told at once, a line a problem: the file and its line, the key, the rule, the
value and the way out. The keys are those of the Structs in `types`; `shapes` reads them, the rules
of one key stand here, those of a plan in `plan_rules`. Every key is explained in docs/task-file.md.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeVar

import msgspec
from msgspec import inspect as kinds

from agent_runtime import model_names
from agent_runtime.documents import BYTES_MAX, Document, decode, load
from agent_runtime.egress_rules import BadHost, parse_rule
from agent_runtime.errors import Fault, MalformedJson, UsageError
from agent_runtime.loop import approvals
from agent_runtime.plan_rules import check_plan
from agent_runtime.resources import (
    DISK_BYTES_MAX,
    DISK_BYTES_MIN,
    INODES_MAX,
    INODES_MIN,
    MEMORY_BYTES_MAX,
    MEMORY_BYTES_MIN,
    UNITS,
    size_bytes,
)
from agent_runtime.shapes import (
    BAD,
    Problems,
    Reader,
    Rule,
    Told,
    above_zero,
    between,
    each,
    filled,
    shown,
    struct_kind,
)
from agent_runtime.task_examples import EXAMPLES, MAPPINGS
from agent_runtime.types import (
    Alternative,
    ArtifactSpec,
    ChangeSpec,
    Check,
    ContinuationSpec,
    EnvironmentSpec,
    Expect,
    Json,
    Limits,
    LimitsChange,
    Objective,
    Policy,
    PublishSpec,
    ResourcesSpec,
    ServiceReady,
    ServiceSpec,
    Spec,
    StepSpec,
    TaskSpec,
    WorkspaceSpec,
)

DAY_SECONDS: Final = 86_400
LABEL_CHARS_MAX: Final = 63
LABELS_MAX: Final = 64
EGRESS_RULES_MAX: Final = 500
COMMANDS_MAX: Final = 100
SERVICES_MAX: Final = 20
ARTIFACTS_MAX: Final = 100
TITLE_CHARS_MAX: Final = 256


class _RepositoryFile(Spec, frozen=True, kw_only=True):
    """`.agent-runtime.yaml`: what a repository says about itself."""

    environment: EnvironmentSpec = EnvironmentSpec()
    datasources: Json = None
    """Read by `modules.datasource`, when somebody asks for data."""


STDIN: Final = "-"
_STDIN_NAME: Final = "<stdin>"

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_SCP = re.compile(r"(?:[\w.-]+@)?[\w.-]+:(?!//)")
_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_OBJECTIVE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
PartT = TypeVar("PartT", bound=Spec)

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def read_task_file(path: str, *, repo: str | None = None, model: str | None = None) -> TaskSpec:
    """The task in a YAML or JSON file; `-` is standard input.

    Relative paths in it start at its directory, a pipe's at the working directory. `repo`
    (relative to the working directory) and `model` are the command line's and replace the file's.

    Raises:
        UsageError: everything that is wrong, a line a problem. Mend the file and try again.
    """
    name = _STDIN_NAME if path == STDIN else path
    document = load(decode(_read(path), name=name), name=name)
    here = _working_directory()
    is_pipe = path == STDIN or (os.path.exists(path) and not os.path.isfile(path))
    base_dir = here if is_pipe else os.path.dirname(os.path.join(here, path))
    value = document.value
    if isinstance(value, dict):
        if repo is not None:
            given = value.get("workspace") or {}
            if isinstance(given, dict):
                value = {**value, "workspace": {**given, "repo": _resolved(repo, here)}}
        if model is not None:
            value = {**value, "model": model}
    return _parse(Document(value, document.sources, document.problems), base_dir, name=name)


def parse_task(document: object, *, base_dir: str) -> TaskSpec:
    """The task in a JSON value, as `POST /v1/tasks` takes it; relative paths start at `base_dir`.

    Raises:
        UsageError: everything that is wrong, a line a problem.
    """
    return _parse(Document(document), base_dir, name="")


_DECODE = msgspec.json.Decoder(TaskSpec).decode
_USUAL: Final = TaskSpec(goal="")


def parse_task_json(body: bytes, *, base_dir: str) -> TaskSpec:
    """As `parse_task`, from the bytes of a JSON text; JSON counts 8.0 as an integer too.

    Raises:
        MalformedJson: it is no JSON.
        UsageError: everything that is wrong.
    """
    try:
        task = _DECODE(body)
        if _is_simple(task):
            return task
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # the reader below says all that is wrong
    return _parse(Document(read_json(body)), base_dir, name="", whole_floats=True)


def read_json(body: bytes) -> Json:
    """The value of a JSON text.

    Raises:
        MalformedJson: it is none.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJson(f"the body is no JSON: {error}") from None


def _is_simple(task: TaskSpec) -> bool:
    """Is there nothing in it that the full reader could object to? Most bodies: a goal and labels.

    It decides the cost of taking a task in: 3 us instead of 30 to 100.
    """
    usual, limits = _USUAL, task.limits
    return (
        task.workspace is None and task.plan is None and task.model is None
        and task.environment == usual.environment and task.policy == usual.policy
        and not (task.objectives or task.protect or task.artifacts)
        and limits == usual.limits
        and 0 <= task.priority <= 9
        and bool(task.goal.strip()) and "\0" not in task.goal
        and not (task.labels and _may_be_wrong(task.labels))
    )  # fmt: skip


def read_environment(text: str, *, name: str) -> EnvironmentSpec:
    """The `environment` of a repository's own file, under the same rules as a task's.

    Raises:
        UsageError: everything that is wrong, a line a problem.
    """
    document = load(text, name=name)
    problems = Problems(document.sources)
    for path, said, line in document.problems:
        problems.add(path, said, line=line)
    value = {} if document.value is None else document.value
    reader = Reader(problems, _RULES, _NOTES, _RETIRED, EXAMPLES)
    draft = reader.read(value, struct_kind(_RepositoryFile), ())
    if problems or not isinstance(draft, _RepositoryFile):
        raise problems.error(name=name)
    return draft.environment


def template_faults(document: object) -> list[Fault]:
    """What is wrong with a task whose texts are yet to be filled, whatever they are filled with:
    keys that no task has, and keys that every task has."""
    problems = Problems({})
    Reader(problems, {}, _NOTES, _RETIRED, EXAMPLES).read(document, _kind(), ())
    return [
        each
        for each in problems.error(name="").faults
        if each.text.startswith("unknown key") or each.text == "is required and missing"
    ]


def read_part(path: str, kind: type[PartT]) -> PartT:
    """A part of a wish that has a file of its own, such as the answer that a fork begins with.

    Raises:
        UsageError: everything that is wrong, a line a problem.
    """
    name = _STDIN_NAME if path == STDIN else path
    document = load(decode(_read(path), name=name), name=name)
    problems = Problems(document.sources)
    for where, said, line in document.problems:
        problems.add(where, said, line=line)
    reader = Reader(problems, examples=EXAMPLES)
    draft = reader.read(document.value, struct_kind(kind), ())
    if problems or not isinstance(draft, kind):
        raise problems.error(name=name)
    return draft


def parse_publish(document: object) -> PublishSpec:
    """Where a branch shall go, from a JSON value: the `publish` of a task file.

    Raises:
        UsageError: everything that is wrong, a line a problem.
    """
    problems = Problems({})
    reader = Reader(problems, _RULES, _NOTES, _RETIRED, EXAMPLES)
    draft = reader.read(document, struct_kind(PublishSpec), ("publish",))
    if problems or not isinstance(draft, PublishSpec):
        raise UsageError("\n".join(problems.lines(name="")))
    return draft


def goal_task(goal: str, repo: str) -> TaskSpec:
    """A task that is only a sentence about a repository; `repo` as on the command line.

    Raises:
        UsageError: the goal or the repository is empty or no text.
    """
    return parse_task({"goal": goal, "workspace": {"repo": repo}}, base_dir=_working_directory())


def read_continuation(
    path: str | None,
    *,
    task: TaskSpec,
    earlier: Mapping[str, bool],
    message: str = "",
    limits: Mapping[str, object] = {},
) -> ContinuationSpec:
    """What the finished `task` goes on with: a file (`-`: standard input), or words alone.

    `message` and `limits` are the command line's and replace the file's. `earlier` are the task's
    steps up to now, and whether they came out well: new ones may need those and no other.

    Raises:
        UsageError: everything that is wrong, a line a problem.
    """
    name = "" if path is None else _STDIN_NAME if path == STDIN else path
    document = Document({}) if path is None else load(decode(_read(path), name=name), name=name)
    value = document.value
    if isinstance(value, dict):
        given = value.get("limits") or {}
        if isinstance(given, dict) and limits:
            value = {**value, "limits": {**given, **limits}}
        if message:
            value = {**value, "message": message}
    document = Document(value, document.sources, document.problems)
    return _continuation(document, task, earlier, name=name)


def parse_continuation(
    document: object, *, task: TaskSpec, earlier: Mapping[str, bool]
) -> ContinuationSpec:
    """As `read_continuation`, from a JSON value."""
    return _continuation(Document(document), task, earlier, name="", whole_floats=True)


def _continuation(
    document: Document, task: TaskSpec, earlier: Mapping[str, bool], *, name: str,
    whole_floats: bool = False,
) -> ContinuationSpec:  # fmt: skip
    problems = Problems(document.sources)
    for path, text, line in document.problems:
        problems.add(path, text, line=line)
    value = document.value
    if not isinstance(value, Mapping):
        said = f"must hold a mapping with `plan`, for instance, got {shown(value)}"
        raise UsageError(f"{name}: {said}" if name else f"the continuation {said}")
    if isinstance(policy := value.get("policy"), Mapping):
        # What it does not name stays as the task has it.
        value = {**value, "policy": {**msgspec.to_builtins(task.policy), **policy}}
    reader = Reader(problems, _CONTINUATION_RULES, _NOTES, _STAYS, EXAMPLES, whole_floats)
    draft = reader.read(value, struct_kind(ContinuationSpec), ())
    assert draft is not BAD and isinstance(draft, ContinuationSpec)
    if draft.policy is not None:
        _check_policy(draft.policy, problems)
    if draft.plan is not None:
        has_model = bool(task.model or draft.model) or problems.at(("model",))
        check_plan(
            draft.plan.steps, problems, path=("plan", "steps"), has_model=has_model,
            earlier=earlier,
        )  # fmt: skip
    _check_objectives(draft.objectives, problems)
    if problems:
        raise problems.error(name=name)
    return draft


def parse_change(document: object) -> ChangeSpec:
    """What of a task becomes another, from a JSON value; the rules are those of a task file.

    Raises:
        UsageError: everything that is wrong, a line a problem.
    """
    problems = Problems({})
    reader = Reader(problems, _CHANGE_RULES, _NOTES, whole_floats=True)
    draft = reader.read(document, struct_kind(ChangeSpec), ())
    if problems or not isinstance(draft, ChangeSpec):
        raise problems.error(name="")
    return draft


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        raise UsageError("the working directory was removed; change to one that exists") from None


def _read(path: str) -> bytes:
    if path == STDIN:
        if sys.stdin is None:
            raise UsageError(f"{_STDIN_NAME}: is closed; name a task file")
        return sys.stdin.buffer.read(BYTES_MAX + 1)
    try:
        with open(path, "rb") as file:
            return file.read(BYTES_MAX + 1)
    except IsADirectoryError:
        raise UsageError(f"{path}: is a directory; name a task file in it") from None
    except FileNotFoundError:
        raise UsageError(f"{path}: does not exist; name a task file, or - for stdin") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: cannot be read: {why}") from None


def _parse(document: Document, base_dir: str, *, name: str, whole_floats: bool = False) -> TaskSpec:
    problems = Problems(document.sources)
    for path, text, line in document.problems:
        problems.add(path, text, line=line)
    value = document.value
    if value is None:
        raise UsageError(
            _line(name, f"is empty; it must hold a mapping with at least `goal`; {_START}")
        )
    if not isinstance(value, Mapping):
        raise UsageError(
            _line(name, f"must hold a mapping with at least `goal`, got {shown(value)}; {_START}")
        )
    reader = Reader(problems, _RULES, _NOTES, _RETIRED, EXAMPLES, whole_floats)
    draft = reader.read(value, _kind(), ())
    assert draft is not BAD and isinstance(draft, TaskSpec)
    _check_together(draft, problems)
    if problems:
        raise problems.error(name=name)
    return _located(draft, base_dir)


_START: Final = "begin with `goal: …` on a line of its own, or let `agent-runtime init` write one"


def _line(name: str, text: str) -> str:
    return f"{name}: {text}" if name else f"the task {text}"


@lru_cache(maxsize=1)
def _kind() -> kinds.StructType:
    return struct_kind(TaskSpec)


def _check_together(task: TaskSpec, problems: Problems) -> None:
    """The rules that look at several keys."""
    workspace = task.workspace
    if workspace is not None and workspace.in_place:
        if workspace.ref != "HEAD" and not problems.at(("workspace", "ref")):
            problems.add(
                ("workspace", "ref"),
                f"must be HEAD with in_place, got {shown(workspace.ref)}: nothing is checked out "
                "in your own directory; check it out yourself, or leave in_place out",
            )
        if not workspace.include_dirty:
            problems.add(
                ("workspace", "include_dirty"),
                "cannot be false with in_place: the task works on your directory as it is; "
                "leave one of the two out",
            )
    if task.publish is not None and workspace is None and not problems.at(("workspace",)):
        problems.add(("publish",), "needs a workspace: without a repository there is no branch")
    _check_policy(task.policy, problems)
    if task.plan is not None:
        check_plan(
            task.plan.steps, problems, path=("plan", "steps"),
            has_model=task.model is not None or problems.at(("model",)),
        )  # fmt: skip
    _check_objectives(task.objectives, problems)


def _check_policy(policy: Policy, problems: Problems) -> None:
    if not problems.at(("policy",)):
        if policy.egress and policy.network == "none":
            problems.add(
                ("policy", "egress"),
                f"allows nothing with network none, got {shown(policy.egress)}; say network: "
                "restricted, or leave egress out",
            )
        if policy.network == "restricted" and not policy.egress:
            problems.add(
                ("policy", "network"),
                "needs the hosts that may be reached, as policy.egress: [pypi.org, "
                "files.pythonhosted.org], for instance; or say none",
            )


def _check_objectives(objectives: Sequence[Objective], problems: Problems) -> None:
    first: dict[str, int] = {}
    for at, objective in enumerate(objectives):
        path = ("objectives", at, "id")
        earlier = first.setdefault(objective.id, at)
        if earlier != at and not problems.at(path):
            problems.add(
                path, f"must be unique; {objective.id!r} is also the id of objectives[{earlier}]"
            )


# ---- paths -------------------------------------------------------------------------------


def _located(task: TaskSpec, base_dir: str) -> TaskSpec:
    """The same task with absolute paths: it may be run from anywhere."""
    if task.workspace is not None:
        repo = _resolved(task.workspace.repo, base_dir)
        workspace = msgspec.structs.replace(task.workspace, repo=repo)
        task = msgspec.structs.replace(task, workspace=workspace)
    if task.environment.python is not None:
        python = os.path.abspath(os.path.join(base_dir, task.environment.python))
        environment = msgspec.structs.replace(task.environment, python=python)
        task = msgspec.structs.replace(task, environment=environment)
    return task


def _resolved(repo: str, base_dir: str) -> str:
    """An absolute path; a URL or `host:path` is left alone, unless such a directory exists."""
    if _URL.match(repo) or not repo:
        return repo
    path = os.path.abspath(os.path.join(base_dir, repo))
    return repo if _SCP.match(repo) and not os.path.lexists(path) else path


# ---- the rules of one key ----------------------------------------------------------------


def _path_rule(value: str) -> Told:
    yield from filled(value)
    if value.startswith("~"):
        yield (), f"~ is not expanded, got {shown(value)}: write the whole path"
    if _CONTROL.search(value):
        yield (), f"must not hold control characters, got {shown(value)}"


def _ref_rule(value: str) -> Told:
    if not value or value.startswith("-") or re.search(r"[\s\x00-\x1f\x7f]", value):
        yield (), f"must name a branch, a tag or a commit, got {shown(value)}"


def _command_rule(value: str | list[str]) -> Told:
    if isinstance(value, str):
        if not value.strip():
            yield (), "must not be empty: write what /bin/sh -c runs"
    elif not value or not value[0].strip():
        yield (), f"must begin with a program, got {shown(value)}"


def _model_rule(value: str) -> Told:
    if fault := model_names.fault_of(value):
        yield (), fault if "password" in fault else f"{fault}, got {shown(value)}"


def _env_rule(value: Mapping[str, str]) -> Told:
    for name in value:
        if not _VARIABLE.match(name):
            yield (name,), "the name of a variable is letters, digits and _, no digit first"


def _commands_rule(value: list[str | list[str]]) -> Told:
    if len(value) > COMMANDS_MAX:
        yield (), f"must hold at most {COMMANDS_MAX} commands, got {len(value)}; write a script"
    for at, command in enumerate(value[:COMMANDS_MAX]):
        for below, text in _command_rule(command):
            yield (at, *below), text


def _secrets_rule(value: list[str]) -> Told:
    for at, name in enumerate(value):
        if not _SECRET.match(name):
            yield (
                (at,),
                f"must be the name of a variable, got {shown(name)}: its value comes from the "
                "setting secrets, never from a task file",
            )


def _services_rule(value: list[ServiceSpec]) -> Told:
    if len(value) > SERVICES_MAX:
        yield (), f"must hold at most {SERVICES_MAX} services, got {len(value)}"
    ids = [service.id for service in value]
    for at, service_id in enumerate(ids):
        if service_id in ids[:at]:
            yield (at, "id"), f"must be unique; {service_id!r} is also an earlier service's"


def _memory_rule(value: str) -> Told:
    found = size_bytes(value)
    if found is None:
        units = ", ".join(UNITS)
        yield (), f"must be a number and a unit ({units}) such as 2GiB, got {shown(value)}"
    elif not MEMORY_BYTES_MIN <= found <= MEMORY_BYTES_MAX:
        yield (), f"must be from 64MiB to 1024TiB, got {shown(value)}"


def _disk_rule(value: str) -> Told:
    found = size_bytes(value)
    if found is not None and not DISK_BYTES_MIN <= found <= DISK_BYTES_MAX:
        yield (), f"must be from 64MiB to 8TiB, got {shown(value)}"
    elif found is None:
        yield from _memory_rule(value)


def _protect_rule(value: str) -> Told:
    pattern = value.removeprefix("!")
    if not pattern.strip().strip("./"):
        yield (), f"must name files, got {shown(value)}"
    elif pattern.startswith("/"):
        relative = pattern.lstrip("/")
        yield (), f"must be relative to the repository, got {shown(value)}; write {relative!r}"
    elif ".." in pattern.split("/"):
        yield (), f"must not hold '..': nothing outside the repository changes, got {shown(value)}"
    elif _CONTROL.search(pattern):
        yield (), f"must not hold control characters, got {shown(value)}"


def _artifact_rule(value: str) -> Told:
    if not value.strip().strip("./"):
        yield (), f"must name files, got {shown(value)}"
    elif value.startswith("/"):
        relative = value.lstrip("/")
        yield (), f"must be relative to the repository, got {shown(value)}; write {relative!r}"
    elif value.startswith(("~", "!")):
        yield (), f"must be a path or a glob below the repository, got {shown(value)}"
    elif ".." in value.split("/"):
        yield (), f"must not hold '..': only files of the repository are kept, got {shown(value)}"
    elif _CONTROL.search(value):
        yield (), f"must not hold control characters, got {shown(value)}"


def _artifacts_rule(value: Sequence[ArtifactSpec]) -> Told:
    if len(value) > ARTIFACTS_MAX:
        yield (), f"must hold at most {ARTIFACTS_MAX} patterns, got {len(value)}"


def _labels_rule(value: Mapping[str, str]) -> Told:
    if len(value) > LABELS_MAX:
        yield (), f"must hold at most {LABELS_MAX} labels, got {len(value)}"
    for key, text in value.items():
        if not key or max(len(key), len(text)) > LABEL_CHARS_MAX or _CONTROL.search(key + text):
            yield (
                (key,),
                f"a label and its value have at most {LABEL_CHARS_MAX} characters on one line, and "
                f"the label at least one, got {shown(text)}",
            )


def _may_be_wrong(labels: Mapping[str, str]) -> bool:
    """As `_labels_rule`, in a fraction of the time; it says nothing."""
    texts = [*labels, *labels.values()]
    return (
        len(labels) > LABELS_MAX or "" in labels or max(map(len, texts)) > LABEL_CHARS_MAX
        or _CONTROL.search("".join(texts)) is not None
    )  # fmt: skip


def _objective_id_rule(value: str) -> Told:
    if not _OBJECTIVE_ID.match(value):
        yield (), f"must be 1 to 64 letters, digits, _, - or ., got {shown(value)}"


def _approvals_rule(value: Mapping[str, object]) -> Told:
    for key in value:
        if not key.strip():
            yield (), "must name tools, got an empty name"
            continue
        try:
            approvals.parse(key)
        except approvals.BrokenRule as error:
            yield (), str(error)


def _egress_rule(value: list[str]) -> Told:
    if len(value) > EGRESS_RULES_MAX:
        yield (), f"must hold at most {EGRESS_RULES_MAX} rules, got {len(value)}"
    for at, text in enumerate(value[:EGRESS_RULES_MAX]):
        try:
            parse_rule(text)
        except BadHost as error:
            yield (at,), f"{error}; got {shown(text)}"


def _push_rule(value: str) -> Told:
    if value == "origin":
        return
    if re.search(r"://[^/]*@", value) and not value.startswith("ssh://"):
        yield (), "must hold no user or password: the setting git_credentials has those"
    elif value.startswith("-") or _CONTROL.search(value) or not (
        value.startswith(("https://", "http://", "ssh://")) or _SCP.match(value)
    ):  # fmt: skip
        local = value.startswith(("file:", "/", ".", "~"))
        hint = "; into a repository on this machine `agent-runtime pull` brings the branch"
        yield (
            (),
            (
                f"must be origin, or a git URL with https or ssh, got {shown(value)}"
                f"{hint if local else ''}"
            ),
        )


def _branch_rule(value: str) -> Told:
    if value and (value.startswith("refs/") or value == "HEAD"):
        yield (), f"must be the short name of a branch, got {shown(value)}"
    elif value:
        yield from _ref_rule(value)


def _title_rule(value: str) -> Told:
    if len(value) > TITLE_CHARS_MAX or _CONTROL.search(value):
        yield (), f"must be one line of at most {TITLE_CHARS_MAX} characters, got {shown(value)}"


_RULES: Final[Mapping[tuple[type, str], Rule]] = {
    (TaskSpec, "goal"): filled,
    (TaskSpec, "model"): _model_rule,
    (TaskSpec, "protect"): each(_protect_rule),
    (TaskSpec, "artifacts"): _artifacts_rule,
    (TaskSpec, "labels"): _labels_rule,
    (TaskSpec, "priority"): between(0, 9),
    (PublishSpec, "push"): _push_rule,
    (PublishSpec, "branch"): _branch_rule,
    (PublishSpec, "base"): _branch_rule,
    (PublishSpec, "title"): _title_rule,
    (WorkspaceSpec, "repo"): _path_rule,
    (WorkspaceSpec, "ref"): _ref_rule,
    (ArtifactSpec, "path"): _artifact_rule,
    (EnvironmentSpec, "python"): _path_rule,
    (EnvironmentSpec, "env"): _env_rule,
    (EnvironmentSpec, "setup"): _commands_rule,
    (EnvironmentSpec, "maintenance"): _commands_rule,
    (EnvironmentSpec, "setup_seconds"): above_zero(DAY_SECONDS, called="a day"),
    (EnvironmentSpec, "egress"): _egress_rule,
    (EnvironmentSpec, "secrets"): _secrets_rule,
    (EnvironmentSpec, "services"): _services_rule,
    (ServiceSpec, "id"): _objective_id_rule,
    (ServiceSpec, "command"): _command_rule,
    (ServiceSpec, "env"): _env_rule,
    (ServiceReady, "port"): between(1, 65_535),
    (ServiceReady, "command"): _command_rule,
    (ServiceReady, "timeout_seconds"): above_zero(3600, called="an hour"),
    (ResourcesSpec, "memory"): _memory_rule,
    (ResourcesSpec, "cpus"): between(0.05, 1024),
    (ResourcesSpec, "processes"): between(16, 65_536),
    (ResourcesSpec, "disk"): _disk_rule,
    (ResourcesSpec, "inodes"): between(INODES_MIN, INODES_MAX),
    (StepSpec, "tool"): filled,
    (StepSpec, "goal"): filled,
    (StepSpec, "when"): filled,
    (StepSpec, "retry"): between(0, 100),
    (StepSpec, "timeout_seconds"): above_zero(DAY_SECONDS, called="a day"),
    (Alternative, "tool"): filled,
    (Expect, "exit"): between(0, 255),
    (Expect, "contains"): filled,
    (Objective, "id"): _objective_id_rule,
    (Check, "command"): _command_rule,
    (Check, "exit"): between(0, 255),
    (Check, "min_passed"): between(0, 10_000_000),
    (Check, "may_lose"): each(filled),
    (Check, "timeout_seconds"): above_zero(DAY_SECONDS, called="a day"),
    (Limits, "steps"): between(1, 100_000),
    (Limits, "usd"): between(0, 100_000),
    (Limits, "tokens"): between(0, 10**10),
    (Limits, "seconds"): above_zero(30 * DAY_SECONDS, called="30 days"),
    (Policy, "egress"): _egress_rule,
    (Policy, "secrets"): _secrets_rule,
    (Policy, "toolbelts"): each(filled),
    (Policy, "tools"): each(filled),
    (Policy, "approvals"): _approvals_rule,
    (Policy, "approval_seconds"): above_zero(30 * DAY_SECONDS, called="30 days"),
}

_CONTINUATION_RULES: Final[Mapping[tuple[type, str], Rule]] = {
    **_RULES,
    (ContinuationSpec, "model"): _model_rule,
    (ContinuationSpec, "protect"): each(_protect_rule),
    (ContinuationSpec, "artifacts"): _artifacts_rule,
    **{(LimitsChange, key): _RULES[Limits, key] for key in LimitsChange.__struct_fields__},
}

_CHANGE_RULES: Final[Mapping[tuple[type, str], Rule]] = {
    (ChangeSpec, "labels"): _labels_rule,
    (ChangeSpec, "priority"): between(0, 9),
}

_NOTES: Final[Mapping[tuple[type, str], str]] = {
    **MAPPINGS,
    (ResourcesSpec, "memory"): "write a number and its unit, such as 2GiB",
    (ResourcesSpec, "disk"): "write a number and its unit, such as 2GiB",
}

_RETIRED: Final[Mapping[tuple[type, str], str]] = {}
"""Keys of the contract that this version does not know, and what to do instead."""

_STAYS: Final[Mapping[tuple[type, str], str]] = {
    (ContinuationSpec, key): f"stays as the task has it; {way_out}"
    for key, way_out in (
        ("goal", "write what is wanted now as `message`"),
        ("workspace", "for another repository, run a new task"),
        ("environment", "for another one, run a new task"),
        ("publish", "`agent-runtime publish` has options of its own"),
        ("labels", "leave it out"),
        ("priority", "leave it out"),
    )
}
"""Keys of a task file that a continuation does not have."""
