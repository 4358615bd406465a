"""What the simulated tasks are: random ones, and some that are known by name."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from msgspec import structs

from agent_runtime.loop.state import State
from agent_runtime.ports import ModelAnswer
from agent_runtime.testing import says
from agent_runtime.types import (
    Alternative,
    Check,
    ContinuationSpec,
    Decision,
    Expect,
    Json,
    Limits,
    LimitsChange,
    Objective,
    PlanSpec,
    Policy,
    PublishSpec,
    StepSpec,
    TaskSpec,
    WorkspaceSpec,
)

TOOLS = ("look", "write", "pay", "put", "post", "special")
DAEMON_TOOLS = ["pay", "put", "post"]
OBJECTIVES = [Objective(id="ok", check=Check(command="true"))]


def random_task(rng: random.Random) -> TaskSpec:
    """A plan, or a goal for the model, with limits that are sometimes too small."""
    limits = Limits(
        steps=rng.choice([3, 10, 60, 250]),
        usd=rng.choice([0.15, 3.0]),
        tokens=rng.choice([20_000, 200_000]),
        seconds=rng.choice([20.0, 3600.0, 50_000.0]),
    )
    policy = Policy(
        tools=DAEMON_TOOLS,
        approvals={t: _decision(rng) for t in TOOLS if rng.random() < 0.12},
        approval_seconds=rng.choice([5.0, 86_400.0]),
        unknown_effect=rng.choice(["ask", "fail", "continue"]),
    )
    if rng.random() < 0.08:
        # The session of a client, whose calls come one by one.
        return TaskSpec(
            goal="live", plan=PlanSpec(steps=[]), limits=limits, policy=policy,
            workspace=WorkspaceSpec(repo="/fake", in_place=rng.random() < 0.5),
        )  # fmt: skip
    thinking = rng.random() < 0.2
    mixed = not thinking and rng.random() < 0.2
    return TaskSpec(
        # A long goal wants a plan.
        goal="live " * (rng.choice([1, 1, 300]) if thinking else 1),
        workspace=WorkspaceSpec(repo="/fake", in_place=rng.random() < 0.05),
        model=rng.choice(["world/model"] * 3 + ["client"]) if thinking or mixed else None,
        plan=None if thinking else random_plan(rng, mixed=mixed),
        objectives=OBJECTIVES,
        limits=limits,
        policy=policy,
    )


def _decision(rng: random.Random) -> Decision:
    return "ask" if rng.random() < 0.9 else "deny"


def random_continuation(rng: random.Random, state: State) -> ContinuationSpec:
    """More steps, the unfinished ones, a word to the model, or checks alone."""
    limits = LimitsChange(steps=rng.choice([None, 3, 60]), seconds=rng.choice([None, 20.0, 3600.0]))
    match rng.choice(["plan", "plan", "unfinished", "message", "checks"]):
        case "plan":
            mixed = state.task.model is not None and rng.random() < 0.3
            plan = random_plan(rng, mixed=mixed, prefix=f"r{state.run}s")
            return ContinuationSpec(plan=plan, limits=limits)
        case "message":
            return ContinuationSpec(message="and now this", limits=limits)
        case "checks":
            return ContinuationSpec(objectives=OBJECTIVES, limits=limits)
        case _:
            return ContinuationSpec(limits=limits)


def random_plan(rng: random.Random, *, mixed: bool = False, prefix: str = "s") -> PlanSpec:
    """Up to eight steps; with `mixed` some of them are the model's."""
    first = f"{prefix}0"
    count = rng.randint(1, 8)
    fallbacks: set[int] = set()
    steps: list[StepSpec] = []
    for i in range(count):
        name = None if mixed and rng.random() < 0.3 else rng.choice(TOOLS)
        needs = [f"{prefix}{j}" for j in range(i) if rng.random() < 0.3]
        if i in fallbacks:
            needs = []
        fallback = None
        if i + 1 < count and rng.random() < 0.15 and i not in fallbacks:
            fallbacks.add(i + 1)
            fallback = f"{prefix}{i + 1}"
        templated = name == "write" and first in needs and 0 not in fallbacks
        whens = [None, None, f"steps.{first}.ok", f"steps.{first}.exit"]
        when = rng.choice(whens) if first in needs and 0 not in fallbacks else None
        steps.append(
            StepSpec(
                id=f"{prefix}{i}",
                tool=name,
                goal="think" if name is None else None,
                args={"text": "{{ steps." + first + ".output }}"} if templated else {},
                needs=needs,
                when=when if name else None,  # conditions are of tools' steps only
                retry=rng.choice([0, 0, 1, 3]),
                timeout_seconds=rng.choice([None, 4.0, 100.0]),
                expect=Expect(contains="nothing") if name and rng.random() < 0.03 else None,
                alternative=Alternative(tool=rng.choice(["look", "put"]))
                if name and rng.random() < 0.15
                else None,
                fallback=fallback,
            )
        )
    return PlanSpec(steps=steps)


# ---- some by name ------------------------------------------------------------------------

Calls = tuple[tuple[str, Mapping[str, Json]], ...]


@dataclass(frozen=True)
class Scene:
    """A fixed task, what the people around it do, and how the world treats it."""

    spec: TaskSpec
    answers: tuple[ModelAnswer, ...] = ()
    """What the model says, one answer a turn."""
    wishes: tuple[tuple[float, str], ...] = ()
    """(virtual second, cancel | pause | steer | stop | change, or of calls of a client: call TOOL |
    again | withdraw): when somebody wants what."""
    slow: tuple[str, ...] = ()
    """Tools that take longer than every deadline, the first time."""
    failing: tuple[str, ...] = ()
    """Tools that always fail, in a known way."""
    failed_verifications: int = 0
    denies: bool = False
    """Do people deny what they are asked?"""
    continuations: tuple[ContinuationSpec, ...] = ()
    """What the task is continued with when it has ended, one after the other."""


def _step(step_id: str, tool: str | None, **more: Json) -> StepSpec:
    return msgspec.convert({"id": step_id, "tool": tool, **more}, StepSpec)


def _task(*steps: StepSpec, model: str | None = None, **more: Json) -> TaskSpec:
    policy = Policy(tools=DAEMON_TOOLS, **more.pop("policy", {}))
    return TaskSpec(
        goal="live",
        workspace=WorkspaceSpec(repo="/fake"),
        model=model,
        plan=PlanSpec(steps=list(steps)) if steps else None,
        objectives=OBJECTIVES,
        policy=policy,
        **more,
    )


def _asks(*names: str) -> ModelAnswer:
    return says("next", *names)


_DONE = says("done", tokens=50)
_WRITES = _task(_step("a", "write"), _step("b", "write", needs=["a"]), _step("c", "look"))

_OPEN = structs.replace(_task(), plan=PlanSpec(steps=[]), objectives=[])
"""What clients of the MCP server *tools* have: calls come one by one, and nothing is proven."""
_WRITES_LATER = PlanSpec(steps=[_step("d", "write"), _step("e", "look", needs=["d"])])

SCENES: Mapping[str, Scene] = {
    "writes": Scene(_WRITES),
    "parallel reads": Scene(
        _task(*(_step(f"r{i}", "look") for i in range(5)), _step("w", "write"))
    ),
    "once": Scene(_task(_step("a", "pay"), _step("b", "pay", needs=["a"]))),
    "unknown effect fails": Scene(
        _task(
            _step("a", "pay", fallback="b"), _step("b", "look"), policy={"unknown_effect": "fail"}
        ),
        slow=("pay",),
    ),
    "unknown effect goes on": Scene(
        _task(_step("a", "pay"), _step("b", "write"), policy={"unknown_effect": "continue"}),
        slow=("pay",),
    ),
    "idempotent and probe": Scene(_task(_step("a", "put"), _step("b", "post"))),
    "fallback": Scene(
        _task(
            _step("a", "post", retry=1, fallback="b"),
            _step("b", "write"),
            _step("c", "write", needs=["a"]),
        ),
        failing=("post",),
    ),
    "alternative": Scene(
        _task(_step("a", "post", alternative={"tool": "put"}), _step("b", "look", needs=["a"])),
        failing=("post",),
    ),
    "abort beside a neighbour": Scene(
        _task(_step("a", "post"), _step("b", "look"), _step("c", "write", needs=["a"])),
        failing=("post",),
    ),
    "approvals": Scene(
        _task(
            _step("a", "write"),
            _step("b", "pay"),
            policy={"approvals": {"write": "ask", "pay": "ask"}},
        )
    ),
    "denied": Scene(
        _task(
            _step("a", "write", fallback="b"),
            _step("b", "look"),
            policy={"approvals": {"write": "ask"}},
        ),
        denies=True,
    ),
    "toolbelt": Scene(_task(_step("a", "special"), _step("b", "special"), _step("c", "write"))),
    "time-outs": Scene(
        _task(
            _step("a", "write", timeout_seconds=4.0),
            _step("b", "look", timeout_seconds=4.0),
            _step("c", "put", timeout_seconds=4.0),
        ),
        slow=("write", "look", "put"),
    ),
    "when": Scene(
        _task(
            _step("a", "look"),
            _step("b", "write", needs=["a"], when="steps.a.ok"),
            _step("c", "write", needs=["b"], args={"text": "{{ steps.b.output }}"}),
        )
    ),
    "model": Scene(
        _task(model="world/model"),
        answers=(_asks("look", "write"), _asks("put", "put"), _asks("special", "nowhere"), _DONE),
    ),
    "model pays": Scene(
        _task(model="world/model"), answers=(_asks("pay"), _asks("write", "post"), _DONE)
    ),
    "model plans again": Scene(
        _task(model="world/model"),
        answers=(_asks("write"), _DONE, _asks("write"), _DONE),
        failed_verifications=1,
    ),
    "mixed": Scene(
        _task(
            _step("a", "look"),
            _step("think", None, goal="think"),
            _step("b", "write", needs=["think"]),
            model="world/model",
        ),
        answers=(_asks("write"), _DONE),
    ),
    "paused and stopped": Scene(_WRITES, wishes=((0.5, "pause"), (3.0, "stop"), (6.0, "steer"))),
    "cancelled": Scene(
        _task(_step("a", "write"), _step("b", "pay"), _step("c", "put")), wishes=((2.0, "cancel"),)
    ),
    "published": Scene(_task(_step("a", "look"), publish=PublishSpec())),
    "continued": Scene(
        _WRITES,
        continuations=(
            ContinuationSpec(
                plan=PlanSpec(
                    steps=[
                        _step("d", "write", needs=["a"], args={"text": "{{ steps.b.output }}"}),
                        _step("e", "pay", needs=["d"]),
                    ]
                )
            ),
            ContinuationSpec(objectives=OBJECTIVES),
        ),
    ),
    "continued after a cancel": Scene(
        _task(_step("a", "write"), _step("b", "pay"), _step("c", "write")),
        wishes=((1.2, "cancel"),),
        continuations=(ContinuationSpec(), ContinuationSpec(plan=_WRITES_LATER)),
    ),
    "a turn of everything": Scene(
        _task(model="world/model", policy={"approvals": {"pay": "ask", "special": "deny"}}),
        answers=(
            _asks(
                "look",
                "look",
                "write",
                "look",
                "nowhere",
                "pay",
                "special",
                "find_tools",
                "put",
                "look",
                "post",
                "write",
            ),
            _asks("look", "write", "look"),
            _DONE,
        ),
        slow=("look", "put"),
    ),
    "a turn of everything, denied": Scene(
        _task(model="world/model", policy={"approvals": {"write": "ask", "pay": "ask"}}),
        answers=(_asks("look", "write", "pay", "look", "nowhere", "put"), _DONE),
        denies=True,
    ),
    "cancelled in a turn and continued": Scene(
        _task(model="world/model"),
        answers=(_asks("look", "put", "write", "pay", "post"), _asks("look"), _DONE),
        wishes=((2.5, "cancel"),),
        continuations=(
            ContinuationSpec(message="do not pay"),
            ContinuationSpec(plan=PlanSpec(steps=[_step("b", None, goal="think")])),
        ),
    ),
    "a model, paused and stopped and told": Scene(
        _task(model="world/model"),
        answers=(_asks("look", "write"), _asks("put", "look"), _DONE),
        wishes=(
            (0.5, "pause"),
            (2.0, "steer"),
            (4.0, "stop"),
            (6.0, "pause"),
            (8.0, "steer"),
            (10.0, "stop"),
        ),
    ),
    "client": Scene(
        _task(model="client"),
        answers=(_asks("look", "write", "look"), _asks("put", "nowhere"), _DONE),
    ),
    "a client, paused and stopped and told": Scene(
        _task(model="client"),
        answers=(_asks("look", "write"), _asks("pay"), _DONE),
        wishes=((0.5, "pause"), (3.0, "steer"), (5.0, "stop"), (9.0, "pause")),
    ),
    "a client, cancelled and continued": Scene(
        _task(model="client"),
        answers=(_asks("look", "put"), _asks("pay"), _DONE),
        wishes=((1.5, "cancel"),),
        continuations=(ContinuationSpec(message="go on"),),
    ),
    "a client's calls": Scene(
        _OPEN,
        wishes=(
            (0.1, "call look"),
            (0.2, "call write"),
            (0.3, "call pay"),
            (0.4, "call put"),
            (3.0, "call post"),
            (3.1, "call nowhere"),
            (3.2, "change"),
            (9.0, "call special"),
            (40.0, "cancel"),
        ),
    ),
    "a client's calls, withdrawn, paused and stopped": Scene(
        structs.replace(_OPEN, policy=Policy(tools=DAEMON_TOOLS, approvals={"pay": "ask"})),
        wishes=(
            (0.1, "call write"),
            (0.2, "call write"),
            (0.3, "withdraw"),
            (0.6, "call pay"),
            (0.9, "withdraw"),
            (1.5, "pause"),
            (2.0, "call look"),
            (4.0, "stop"),
            (6.0, "call put"),
            (8.0, "again"),
            (30.0, "cancel"),
        ),
    ),
    "continued with a model": Scene(
        _task(model="world/model"),
        answers=(_asks("write"), _DONE, _asks("put"), _DONE),
        continuations=(ContinuationSpec(message="and put it there"),),
    ),
}
