"""The way of a proven branch out of the daemon, as the core decides it."""

from typing import Any

import pytest

from agent_runtime.errors import PublishFailed
from agent_runtime.loop import events as e
from agent_runtime.loop.publishing import MOVES_MAX, TRIES
from agent_runtime.loop.state import State, status_of
from agent_runtime.testing import FakePublisher, FakeRemote
from agent_runtime.types import PublishSpec, Status, TaskSpec
from tests.loop.harness import Bench, Script, step, task

pytestmark = pytest.mark.anyio
DENIED = PublishFailed("no write access", kind="denied")
BRANCH = "agent-runtime/task_1"
DRAFT = PublishSpec()


class Forge:
    """A bench with a remote."""

    def __init__(self, **more: Any) -> None:
        self.bench = Bench(Script("look"), **more)
        self.remote = FakeRemote()

    async def drive(self) -> State:
        publisher = FakePublisher(self.remote, self.bench.workspaces)
        return await self.bench.drive(publisher=publisher)

    async def run(self, publish: PublishSpec | None = DRAFT) -> State:
        await self.bench.submit(published(publish))
        return await self.drive()


def published(publish: PublishSpec | None = DRAFT) -> TaskSpec:
    return task(step("a", "look"), publish=publish)


async def test_a_task_that_succeeded_is_published_before_it_is_cleaned_up() -> None:
    """Our contract: intent, act, fact, for the branch and then for the pull request."""
    forge = Forge()
    state = await forge.run()
    told = [type(x).__name__ for x in forge.bench.events()]
    ending = told[told.index("TaskConcluded") :]
    assert [name for name in ending if name != "PhaseEntered"] == [
        "TaskConcluded", "PublicationPrepared", "PublicationIntended", "PublicationDone",
        "PublicationIntended", "PublicationDone", "PublicationEnded", "CleanedUp", "TaskEnded",
    ]  # fmt: skip
    assert status_of(state) == (Status.SUCCEEDED, "every check passed")
    assert forge.remote.requests == [BRANCH] and forge.remote.pushes == 1


async def test_without_a_pull_request_the_branch_alone_goes_out() -> None:
    """`pr: none`."""
    forge = Forge()
    await forge.run(PublishSpec(pr="none"))
    assert list(forge.remote.branches) == [BRANCH] and not forge.remote.requests


async def test_what_did_not_succeed_is_not_published() -> None:
    """Only what is proven leaves the daemon."""
    forge = Forge(judge=lambda files: False)
    state = await forge.run()
    assert status_of(state)[0] is Status.UNVERIFIED
    assert not forge.remote.branches and state.publication is None


async def test_a_refusal_is_told_once_and_the_result_stays() -> None:
    """Permission errors fail fast, with the forge's words; the certificate is not lost."""
    forge = Forge()
    forge.remote.faults = [DENIED]
    state = await forge.run()
    status, reason = status_of(state)
    assert status is Status.SUCCEEDED
    assert reason == (
        "every check passed; not published: the commit could not be made: no write access"
    )
    assert len(forge.bench.of(e.PublicationFailed)) == 1


async def test_what_may_pass_is_tried_again_after_growing_waits() -> None:
    """A forge that is down for a minute costs a minute."""
    forge = Forge()
    down = PublishFailed("502", kind="transient")
    forge.remote.faults = [down] * (TRIES - 1)
    state = await forge.run()
    assert state.publication is not None and state.publication.ended is not None
    assert state.publication.ended.ok and len(forge.bench.of(e.TimerFired)) == TRIES - 1
    forge = Forge()
    forge.remote.faults = [down] * TRIES
    assert "502" in status_of(await forge.run())[1]


async def test_a_base_that_moved_is_verified_again() -> None:
    """DESIGN, publishing: a moved base is re-verified, and the log says how that ended."""
    forge = Forge()
    forge.remote.base = "5ca1ab1e"
    await forge.run()
    (prepared,) = forge.bench.of(e.PublicationPrepared)
    assert prepared.verification is not None and prepared.verification.ok
    assert forge.remote.branches == {BRANCH: prepared.commit}


async def test_what_fails_on_the_new_base_stays_here() -> None:
    """A branch whose checks fail where it would be merged is not proven there."""
    seen: list[bool] = []

    def judge(files: object) -> bool:
        seen.append(True)
        return len(seen) < 3  # after and before the work; then on the new base

    forge = Forge(judge=judge)
    forge.remote.base = "5ca1ab1e"
    status, reason = status_of(await forge.run())
    assert status is Status.SUCCEEDED and "unverified on main as it is now" in reason
    assert not forge.remote.branches


async def test_a_base_that_moves_while_its_checks_run_is_followed_for_a_while() -> None:
    """And then the reason says so."""
    forge = Forge()
    moved = PublishFailed("the base has moved", kind="failed", moved=True)
    forge.remote.faults = [moved] * MOVES_MAX
    state = await forge.run()
    assert state.publication is not None and state.publication.ended == e.PublicationEnded(ok=True)
    forge = Forge()
    forge.remote.faults = [moved] * (MOVES_MAX + 1)
    assert "the base has moved" in status_of(await forge.run())[1]


async def test_an_ended_task_is_published_when_somebody_asks() -> None:
    """After a failure, or without `publish` in its file: nothing else of it goes on."""
    forge = Forge()
    state = await forge.run(None)
    assert not forge.remote.branches
    await forge.bench.say(e.PublicationRequested(by="me", publish=PublishSpec(branch="fix/a")))
    assert status_of(forge.bench.state())[0] is Status.RUNNING
    again = await forge.drive()
    assert list(forge.remote.branches) == ["fix/a"]
    assert again.run == 1 and again.conclusion == state.conclusion and again.ended
    assert len(forge.bench.of(e.CleanedUp)) == 1, "there was nothing to clean up again"


async def test_somebody_elses_branch_is_left_alone() -> None:
    """The daemon pushes over nothing that it has not pushed itself."""
    forge = Forge()
    forge.remote.branches[BRANCH] = "theirs"
    assert "somebody else" in status_of(await forge.run())[1]
    assert forge.remote.branches == {BRANCH: "theirs"}
