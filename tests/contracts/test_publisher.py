"""What every `Publisher` promises: the fake, and the one with a real git server and forge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent_runtime.errors import PublishFailed
from agent_runtime.ports import PreparedBranch, Publisher, PublishOrder
from agent_runtime.testing import FakePublisher, FakeRemote, FakeWorkspaces
from agent_runtime.types import PublishSpec, TreeId
from tests.cli.conftest import git, make_repository
from tests.publishing.server import GitHost
from tests.publishing.test_publisher import BRANCH, TASK, order, publisher, push_upstream

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Threads and processes: in real time, on asyncio."""
    return "asyncio"


@dataclass
class Stage:
    """A publisher, a remote, and what a test may do to it."""

    publisher: Publisher
    order: PublishOrder
    branches: Callable[[], dict[str, str]]
    requests: Callable[[], int]
    move_base: Callable[[], None]
    take: Callable[[str], None]
    """Somebody else makes a branch of that name."""


@pytest.fixture(params=["fake", "git"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    return _fake() if request.param == "fake" else _git(request, tmp_path)


def _fake() -> Stage:
    remote, workspaces = FakeRemote(), FakeWorkspaces()
    tree = TreeId("t1")
    workspaces.trees[tree] = {}
    asked = PublishOrder(
        task_id=TASK, repo="r", ref="HEAD", spec=PublishSpec(), base_commit=remote.base,
        carried=False, tree=tree, patch=b"p", message="m", at_us=1,
    )  # fmt: skip

    def move() -> None:
        remote.base += "x"

    return Stage(
        FakePublisher(remote, workspaces), asked, lambda: dict(remote.branches),
        lambda: len(remote.requests), move, lambda name: remote.branches.update({name: "theirs"}),
    )  # fmt: skip


def _git(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    host = GitHost(tmp_path / "host")
    request.addfinalizer(host.close)
    host.create(make_repository(tmp_path / "upstream"))

    def branches() -> dict[str, str]:
        return {name: at for name, at in host.branches().items() if name != "main"}

    def take(name: str) -> None:
        git(host.repository(), "branch", name, "main")

    return Stage(
        publisher(host, tmp_path), order(host), branches, lambda: len(host.requests),
        lambda: push_upstream(host, tmp_path, "other.py", "x = 1\n"), take,
    )  # fmt: skip


async def prepared(stage: Stage) -> PreparedBranch:
    made = await stage.publisher.prepare(stage.order)
    stage.order = replace(stage.order, ours=(made.commit,))
    return made


async def test_what_is_there_is_found_and_not_made_again(stage: Stage) -> None:
    """The probe of both effects."""
    made = await prepared(stage)
    assert await stage.publisher.prepare(stage.order) == made, "preparing again changes nothing"
    assert not await stage.publisher.push(stage.order, made)
    assert await stage.publisher.push(stage.order, made)
    first = await stage.publisher.open_request(stage.order, made, title="t", body="b")
    again = await stage.publisher.open_request(stage.order, made, title="t", body="b")
    assert again == replace(first, found=True) and not first.found
    assert stage.branches() == {BRANCH: made.commit} and stage.requests() == 1


async def test_nothing_leaves_for_a_base_that_has_moved(stage: Stage) -> None:
    """It is prepared anew, with what must be checked again."""
    made = await prepared(stage)
    assert made.packed is None
    stage.move_base()
    with pytest.raises(PublishFailed) as failed:
        await stage.publisher.push(stage.order, made)
    assert failed.value.moved and stage.branches() == {}
    anew = await prepared(stage)
    assert anew.packed is not None and anew.base_commit != made.base_commit
    assert not await stage.publisher.push(stage.order, anew)


async def test_a_branch_that_is_not_ours_is_left_alone(stage: Stage) -> None:
    """Neither when it is there before, nor when somebody is faster."""
    made = await prepared(stage)
    stage.take(BRANCH)
    theirs = stage.branches()
    with pytest.raises(PublishFailed) as failed:
        await stage.publisher.push(stage.order, made)
    assert failed.value.kind == "refused" and stage.branches() == theirs


async def test_a_lost_repository_of_ours_is_no_loss(stage: Stage) -> None:
    """Between preparing and pushing, somebody cleans the disk."""
    made = await prepared(stage)
    await stage.publisher.forget(TASK)
    await stage.publisher.forget(TASK)
    assert not await stage.publisher.push(stage.order, made)
    assert stage.branches() == {BRANCH: made.commit}
