"""The adapter against a real git server and real stand-ins of both forges' APIs."""

from __future__ import annotations

import socket
import subprocess
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from msgspec.structs import replace as changed

from agent_runtime.errors import PublishFailed, UsageError
from agent_runtime.ports import PreparedBranch, PublishOrder
from agent_runtime.publishing.hosts import GitHosts
from agent_runtime.publishing.publisher import GitPublisher
from agent_runtime.types import PublishSpec, TaskId, TaskSpec, TreeId, WorkspaceSpec
from tests.cli.conftest import git, make_repository
from tests.publishing.server import TOKEN, GitHost

pytestmark = pytest.mark.anyio
TASK = TaskId("task_1")
BRANCH = "agent-runtime/task_1"
PATCH = b"""\
diff --git a/calc.py b/calc.py
--- a/calc.py
+++ b/calc.py
@@ -1,2 +1,2 @@
 def add(a, b):
-    return a - b
+    return a + b
"""


@pytest.fixture
def anyio_backend() -> str:
    """Threads and processes: in real time, on asyncio."""
    return "asyncio"


def publisher(host: GitHost, place: Path, forge: str = "github") -> GitPublisher:
    hosts = GitHosts(host.credentials(forge), {"HOST_TOKEN": TOKEN})
    return GitPublisher(str(place / "state"), hosts)


def order(host: GitHost, **more: str) -> PublishOrder:
    return PublishOrder(
        task_id=TASK,
        repo=host.url(),
        ref="HEAD",
        spec=PublishSpec(**more),  # type: ignore[arg-type]
        base_commit=host.branches()["main"],
        carried=False,
        tree=TreeId("0" * 40),
        patch=PATCH,
        message="Make add add\n",
        at_us=1_750_000_000_000_000,
    )


async def publish(made: GitPublisher, asked: PublishOrder) -> PreparedBranch:
    prepared = await made.prepare(asked)
    await made.push(replace(asked, ours=(prepared.commit,)), prepared)
    return prepared


def push_upstream(host: GitHost, path: Path, name: str, text: str) -> None:
    """Somebody else's commit on main."""
    work = path / "else"
    if not work.exists():
        subprocess.run(["git", "clone", "-q", str(host.repository()), str(work)], check=True)
    (work / name).write_text(text, encoding="utf-8")
    git(work, "add", ".")
    git(work, "commit", "--quiet", f"--message={name}")
    git(work, "push", "--quiet", "origin", "HEAD:main")


@pytest.mark.parametrize("forge", ["github", "gitlab"])
async def test_a_branch_and_its_request_are_made_once(
    host: GitHost, tmp_path: Path, forge: str
) -> None:
    """Our contract: looked for, then made; done again, found."""
    made, asked = publisher(host, tmp_path, forge), order(host)
    prepared = await made.prepare(asked)
    asked = replace(asked, ours=(prepared.commit,))
    assert prepared.packed is None, "the base is the one that it was certified on"
    assert not await made.push(asked, prepared) and await made.push(asked, prepared)
    assert host.branches()[BRANCH] == prepared.commit
    assert "a + b" in host.show(f"{BRANCH}:calc.py")
    opened = await made.open_request(asked, prepared, title="T", body="B")
    again = await made.open_request(asked, prepared, title="T", body="B")
    assert (opened.found, again.found, opened.url) == (False, True, again.url)
    (request,) = host.requests
    assert request["draft"] and request["base"] == "main" and request["text"].startswith("B\n")
    assert request["title"] == ("T" if forge == "github" else "Draft: T")


async def test_a_conflict_with_the_base_names_the_file(host: GitHost, tmp_path: Path) -> None:
    """And says what to do."""
    asked = order(host)
    push_upstream(host, tmp_path, "calc.py", "def add(a, b):\n    return sum((a, b))\n")
    with pytest.raises(PublishFailed, match=r"(?s)base_conflict: .*calc\.py.*pull") as failed:
        await publisher(host, tmp_path).prepare(asked)
    assert failed.value.kind == "failed"


async def test_somebody_elses_branch_is_not_touched(host: GitHost, tmp_path: Path) -> None:
    """Not even fast-forward."""
    theirs = host.branches()["main"]
    git(host.repository(), "branch", "fix", theirs)
    with pytest.raises(PublishFailed, match="did not push it") as failed:
        await publisher(host, tmp_path).prepare(order(host, branch="fix"))
    assert failed.value.kind == "refused" and host.branches()["fix"] == theirs


@pytest.mark.parametrize(
    ("status", "headers", "kind", "after"),
    [
        (403, {}, "denied", None),
        (403, {"x-ratelimit-remaining": "0", "retry-after": "7"}, "transient", 7.0),
        (429, {"retry-after": "3"}, "transient", 3.0),
        (502, {}, "transient", None),
        (404, {}, "not_found", None),
        (422, {}, "bad_input", None),
        (302, {"location": "http://127.0.0.1:1/"}, "failed", None),
    ],
)
async def test_a_forges_no_is_told_in_its_words(
    host: GitHost,
    tmp_path: Path,
    status: int,
    headers: dict[str, str],
    kind: str,
    after: float | None,
) -> None:
    """Permission errors fail fast; what may pass is said to be so."""
    made, asked = publisher(host, tmp_path), order(host)
    prepared = PreparedBranch(
        url=host.url(), branch=BRANCH, base="main", base_commit="c", commit="d",
        tree=TreeId("t"), base_tree=TreeId("b"),
    )  # fmt: skip
    host.refuse["POST /api/v3"] = (status, headers, b'{"message": "Not today"}')
    with pytest.raises(PublishFailed, match="Not today") as failed:
        await made.open_request(asked, prepared, title="T", body="B")
    assert (failed.value.kind, failed.value.retry_after_seconds) == (kind, after)
    assert TOKEN not in str(failed.value)


@pytest.mark.long
async def test_a_server_that_refuses_the_push_is_believed(host: GitHost, tmp_path: Path) -> None:
    """A hook's word is final; a server that stumbles is asked again."""
    made, asked = publisher(host, tmp_path), order(host)
    prepared = await made.prepare(asked)
    hook = host.repository() / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho no direct pushes >&2\nexit 1\n", encoding="utf-8")
    hook.chmod(0o755)
    with pytest.raises(PublishFailed, match="no direct pushes") as failed:
        await made.push(asked, prepared)
    assert failed.value.kind == "denied"
    hook.unlink()
    host.refuse["POST /acme/app.git/git-receive-pack"] = (503, {}, b"busy")
    with pytest.raises(PublishFailed) as failed:
        await made.push(asked, prepared)
    assert failed.value.kind == "transient"


@pytest.mark.long
async def test_a_wrong_token_fails_at_once(host: GitHost, tmp_path: Path) -> None:
    """And is in nobody's error."""
    hosts = GitHosts(host.credentials(), {"HOST_TOKEN": "another-secret-token"})
    with pytest.raises(PublishFailed) as failed:
        await GitPublisher(str(tmp_path), hosts).prepare(order(host))
    assert failed.value.kind == "denied" and "another-secret" not in str(failed.value)


@pytest.mark.long
async def test_a_later_publication_brings_its_report_along(host: GitHost, tmp_path: Path) -> None:
    """The open request of a branch that is pushed again gets the new text."""
    made, asked = publisher(host, tmp_path), order(host)
    prepared = await publish(made, asked)
    await made.open_request(asked, prepared, title="T", body="old")
    second = replace(prepared, commit="1" * 40)
    assert (await made.open_request(asked, second, title="T", body="new")).found
    assert host.requests[0]["text"].startswith("new") and len(host.requests) == 1


@pytest.mark.long
async def test_an_app_opens_with_a_token_of_its_installation(host: GitHost, tmp_path: Path) -> None:
    """Signed with its key, kept while it is good."""
    key = tmp_path / "app.pem"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    told = {"app": "12", "installation": "34", "private_key": f"file:{key}", "forge": "github",
            "api": f"http://{host.netloc}/api/v3"}  # fmt: skip
    made = GitPublisher(str(tmp_path), GitHosts({host.netloc: told}, {}))
    asked = order(host)
    prepared = await publish(made, asked)
    await made.open_request(asked, prepared, title="T", body="B")
    assert len(host.requests) == 1 and host.app_tokens == 1


@pytest.mark.parametrize(
    ("push", "why"),
    [
        ("https://localhost/a.git", "no address of the public internet"),
        ("https://127.0.0.1/a.git", "no address of the public internet"),
        ("https://[::ffff:10.0.0.1]/a.git", "no address of the public internet"),
        ("http://git.example.org/a.git", "not encrypted"),
        ("file:///srv/a.git", "scheme 'file'"),
        ("ext::sh -c true", "no git URL"),
        ("ext::sh", "helper program"),
        ("https://user:pw@git.example.org/a.git", "git_credentials"),
        ("-oProxyCommand=x", "no git URL"),
        ("ssh://-oProxyCommand=x/a", "no host|option"),
        ("https://github.com/../etc", "no repository"),
        ("https://github.com/acme/%2E%2e/other/app.git", "hides dots"),
        ("https://github.com/acme%2fother/app.git", "hides dots"),
        ("https://github.com/acme/%252e%252e/other/app.git", "hides dots"),
        ("https://github.com/acme//other.git", "hides dots"),
        ("https://git.example.org/a.git", "no forge"),
    ],
)
async def test_addresses_that_no_task_may_name_are_refused(
    tmp_path: Path, push: str, why: str
) -> None:
    """Before any connection, and without showing a password."""
    made = GitPublisher(str(tmp_path), GitHosts({}, {}))
    task = TaskSpec(goal="g", workspace=WorkspaceSpec(repo="/r"), publish=PublishSpec(push=push))
    with pytest.raises(UsageError, match=why) as refused:
        await made.check(task)
    assert "pw" not in str(refused.value)
    await made.check(changed(task, publish=None))


@pytest.mark.parametrize(
    ("origin", "pr", "why"),
    [
        (
            "",
            "none",
            "publish.push: it is origin, and .* has no remote of that name: write the URL",
        ),
        ("/srv/a.git", "none", "publish.push: the address '/srv/a.git' is no git URL"),
        ("http://git.example.org/a.git", "none", "not encrypted"),
        ("https://git.example.org/a.git", "draft", "publish.pr: .* is no forge that is known"),
        ("https://github.com/acme/a.git", "ready", "publish.pr: no token for 'github.com/acme/a'"),
        ("https://github.com/acme/a.git", "none", ""),
        ("https://gitlab.com/acme/a.git", "draft", ""),
    ],
)
async def test_a_branch_that_would_have_nowhere_to_go_is_refused_before_the_work(
    tmp_path: Path, origin: str, pr: str, why: str
) -> None:
    """Found as a user: it was said at the end, when all the work was done."""
    make_repository(tmp_path / "repo")
    if origin:
        git(tmp_path / "repo", "remote", "add", "origin", origin)
    made = GitPublisher(str(tmp_path), GitHosts({"gitlab.com": {"token": "env:LATER"}}, {}))
    spec = PublishSpec(pr=pr)  # type: ignore[arg-type]
    task = TaskSpec(goal="g", workspace=WorkspaceSpec(repo=str(tmp_path / "repo")), publish=spec)
    if not why:
        await made.check(task)
        return
    with pytest.raises(UsageError, match=why):
        await made.check(task)
    sent = changed(task, workspace=WorkspaceSpec(repo=f"upload:{'0' * 64}"))
    with pytest.raises(UsageError, match="a repository that was sent has none"):
        await made.check(sent)


NONSENSE: dict[str, tuple[int, dict[str, str], bytes]] = {
    "a reset that is no number": (
        403,
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "\xb2"},
        b"",
    ),
    "a retry-after beyond all numbers": (429, {"retry-after": "9" * 400}, b""),
    "errors that are no list": (422, {}, b'{"errors": 5}'),
    "half a character": (422, {}, b'{"message": "\\ud800"}'),
    "a depth": (200, {}, b"[" * 100_000),
    "no list": (200, {}, b"<html>Please log in</html>"),
    "a request without a number": (200, {}, b'[{"head": {"ref": "b"}, "base": {"ref": "main"}}]'),
    "a head that is none": (200, {}, b'[{"head": [1], "base": "main"}]'),
    "its own question": (500, {}, b'{"message": "you sent ' + TOKEN.encode() + b'"}'),
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_a_forge_that_talks_nonsense_is_told_like_any_other(
    host: GitHost, tmp_path: Path, what: str
) -> None:
    """Whatever it answers is an outcome that the log can keep, and never a defect of ours."""
    made, asked = publisher(host, tmp_path), order(host)
    prepared = PreparedBranch(
        url=host.url(), branch="b", base="main", base_commit="c", commit="d",
        tree=TreeId("t"), base_tree=TreeId("b"),
    )  # fmt: skip
    status = NONSENSE[what][0]
    host.refuse["GET /api/v3"] = NONSENSE[what]
    host.refuse["POST /api/v3"] = (201, {}, b'{"number": "abc"}')
    with pytest.raises(PublishFailed) as failed:
        await made.open_request(asked, prepared, title="T", body="B")
    assert TOKEN not in str(failed.value) and str(failed.value).encode("utf-8")
    assert failed.value.kind == ("bad_input" if status == 422 else "transient")


async def test_a_forge_that_is_silent_holds_nobody_up(host: GitHost, tmp_path: Path) -> None:
    """The daemon that ends, and the task that is cancelled, do not wait for its answer."""
    made, asked = publisher(host, tmp_path), order(host)
    prepared = await publish(made, asked)
    asking, answered = anyio.Event(), threading.Event()
    loop = anyio.lowlevel.current_token()

    def silent(point: str) -> None:
        if point.startswith("before POST /api"):
            anyio.from_thread.run_sync(asking.set, token=loop)
            answered.wait(60)

    host.at = silent
    try:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(partial(made.open_request, asked, prepared, title="T", body="B"))
                await asking.wait()
                tg.cancel_scope.cancel()
    finally:
        answered.set()


async def test_a_full_disk_of_the_server_is_not_ours(host: GitHost, tmp_path: Path) -> None:
    """A task waits for room on its own disk for ever; what a server's disk does is an outcome."""
    made, asked = publisher(host, tmp_path), order(host)
    prepared = await made.prepare(asked)
    hook = host.repository() / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho write error: No space left on device >&2\nexit 1\n", "utf-8")
    hook.chmod(0o755)
    with pytest.raises(PublishFailed, match="No space left on device"):
        await made.push(asked, prepared)


@pytest.mark.parametrize(
    ("number", "kind"), [(socket.EAI_AGAIN, "transient"), (socket.EAI_NONAME, "refused")]
)
async def test_a_name_that_nobody_answers_for_just_now_is_tried_again(
    host: GitHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: str
) -> None:
    """Found as a user: it counted as a host that there is not, and was tried once."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "no name")

    monkeypatch.setattr("agent_runtime.publishing.hosts.socket.getaddrinfo", unknown)
    made = GitPublisher(str(tmp_path), GitHosts({}, {}))
    asked = replace(order(host), spec=PublishSpec(push="https://git.example.org/a.git", pr="none"))
    with pytest.raises(PublishFailed, match="is not known here") as refused:
        await made.prepare(asked)
    assert refused.value.kind == kind
