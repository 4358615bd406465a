"""What a given plan may be: its steps' names, order, stand-ins and templates.

Found out before the task is accepted, because a plan that cannot come out well costs hours to fail.
Whether a step's tool exists and takes its arguments is known only where the task runs: that is
checked in `loop.discover`. How the loop walks a plan is in `loop.actions` and `loop.recovery`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Final

from agent_runtime.documents import Path
from agent_runtime.shapes import Problems, shown
from agent_runtime.types import Json, StepSpec

STEPS_MAX: Final = 10_000
CYCLES_MAX: Final = 20
"""That are told: taking one need out often opens several."""
CYCLE_SHOWN_MAX: Final = 12
"""Steps of a cycle that are told by name."""

_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
_OF_TOOLS = ("args", "expect", "effect", "retry", "alternative", "when")
"""Keys that mean something only for a step with a tool: they tell how one call goes."""


def check_plan(
    steps: Sequence[StepSpec],
    problems: Problems,
    *,
    path: Path,
    has_model: bool,
    earlier: Mapping[str, bool] = {},
) -> None:
    """Tell what is wrong with a plan. Steps that are wrong themselves are drafts (see `shapes`).

    `earlier` are the steps of a task that is continued, by id, and whether they came out well.
    """
    if not steps and not problems.at(path):
        problems.add(path, "must hold at least one step; leave `plan` out to have one made")
    if len(steps) > STEPS_MAX:
        problems.add(path, f"must hold at most {STEPS_MAX} steps, got {len(steps)}")
        return
    _Plan(steps, problems, path, has_model, earlier).check()


class _Plan:
    """A plan under examination. Where an id stands twice, it means the first."""

    def __init__(
        self,
        steps: Sequence[StepSpec],
        problems: Problems,
        path: Path,
        has_model: bool,
        earlier: Mapping[str, bool],
    ) -> None:
        self.steps = steps
        self.problems = problems
        self.path = path
        self.has_model = has_model
        self.earlier = earlier
        self.index: dict[str, int] = {}
        for at, step in enumerate(steps):
            self.index.setdefault(step.id, at)
        self.owner: dict[str, int] = {}
        """Id of a fallback -> number of the first step that owns it."""
        for at, step in enumerate(steps):
            if step.fallback is not None:
                self.owner.setdefault(step.fallback, at)

    def check(self) -> None:
        for at, step in enumerate(self.steps):
            self._check_id(at, step)
            self._check_kind(at, step)
            self._check_needs(at, step)
            self._check_fallback(at, step)
        cycles = list(islice(_cycles(self._edges()), CYCLES_MAX))
        for cycle in cycles:
            self.problems.add((*self.path, cycle[0]), self._cycle_text(cycle))
        before = None if cycles else self._reached()
        for at, step in enumerate(self.steps):
            for key, value in _templated(step):
                for where, text in self._template_problems(at, key, value, before):
                    self.problems.add((*self.path, at, *where), text)

    # ---- one step ------------------------------------------------------------------------

    def _check_id(self, at: int, step: StepSpec) -> None:
        path = (*self.path, at, "id")
        if self.problems.at(path):
            return
        if not _ID.match(step.id):
            self.problems.add(
                path,
                f"must be a letter or _ followed by at most 63 letters, digits or _ (templates "
                f"name it: steps.{_as_id(step.id)}.output), got {shown(step.id)}",
            )
        elif step.id in self.earlier:
            self.problems.add(
                path,
                f"must be new; {step.id!r} was a step of the task's earlier plan, whose result is "
                "read by that name",
            )
        elif (first := self.index[step.id]) != at:
            text = f"must be unique; {step.id!r} is also the id of plan.steps[{first}]"
            self.problems.add(path, text)

    def _check_kind(self, at: int, step: StepSpec) -> None:
        path = (*self.path, at)
        if self.problems.at((*path, "tool")) or self.problems.at((*path, "goal")):
            return
        if step.tool is not None:
            if step.goal is not None:
                text = "a step has a tool or a goal for the model, not both; leave one out"
                self.problems.add((*path, "goal"), text)
            return
        if step.goal is None:
            # A misspelt `tool` is told already.
            if not self.problems.at(path):
                self.problems.add(path, "needs a `tool`, or a `goal` for the model to work on")
            return
        if not self.has_model:
            text = (
                "the model works on a step without a tool: add `model: provider/name` to the task, "
                "or give the step a `tool`"
            )
            self.problems.add((*path, "goal"), text)
        empty = StepSpec(id=step.id)
        for key in _OF_TOOLS:
            if getattr(step, key) != getattr(empty, key):
                text = (
                    "means nothing on a step of the model: give the step a `tool` or leave it out"
                )
                self.problems.add((*path, key), text)

    def _check_needs(self, at: int, step: StepSpec) -> None:
        seen: set[str] = set()
        for number, need in enumerate(step.needs):
            path = (*self.path, at, "needs", number)
            if self.problems.at(path):
                continue
            if need in seen:
                self.problems.add(path, f"{need!r} is named twice; keep one")
            seen.add(need)
            if need not in self.index and need in self.earlier:
                if not self.earlier[need]:
                    self.problems.add(path, self._spent(need))
            elif need not in self.index:
                self.problems.add(path, self._missing(need, "a step needs steps of the same plan"))
            elif (owner := self.owner.get(need)) is not None:
                # Also for its owner: it would wait for what runs only after it.
                owner_id = self.steps[owner].id
                text = (
                    f"{need!r} is the fallback of {owner_id!r}: its result stands for its owner's"
                )
                way_out = "it runs only after its owner" if owner == at else (
                    f"need the owner {owner_id!r} instead"
                )  # fmt: skip
                self.problems.add(path, f"{text}; {way_out}")

    def _check_fallback(self, at: int, step: StepSpec) -> None:
        path = (*self.path, at, "fallback")
        if step.fallback is None or self.problems.at(path):
            return
        if step.fallback not in self.index:
            self.problems.add(
                path, self._missing(step.fallback, "a fallback is a step of the plan")
            )
        elif (owner := self.owner[step.fallback]) != at:
            text = (
                f"{step.fallback!r} is already the fallback of {self.steps[owner].id!r}; "
                "a fallback has one owner: give this step one of its own"
            )
            self.problems.add(path, text)

    def _spent(self, step_id: str) -> str:
        return f"{step_id!r} did not come out well in the earlier plan, so it has no result"

    def _missing(self, word: str, rule: str) -> str:
        hint = self.problems.hint(word, [*self.index, *self.earlier])
        return f"{rule}, and none has the id {shown(word)}{hint}"

    # ---- the graph -----------------------------------------------------------------------

    def _edges(self) -> list[list[int]]:
        """What each step's standing waits for: its needs, and its fallback once it failed."""
        edges = []
        for step in self.steps:
            names = [*step.needs, step.fallback] if step.fallback is not None else step.needs
            edges.append([self.index[name] for name in names if name in self.index])
        return edges

    def _cycle_text(self, cycle: Sequence[int]) -> str:
        ids = [self.steps[at].id for at in cycle]
        if len(ids) > CYCLE_SHOWN_MAX:
            ids[CYCLE_SHOWN_MAX - 1 : -1] = ["…"]
        for owner, stand_in in pairwise(cycle):
            step = self.steps[owner]
            if step.fallback == self.steps[stand_in].id and step.fallback not in step.needs:
                return (
                    f"steps wait for each other: {' → '.join(ids)} ({step.fallback!r} is the "
                    f"fallback of {step.id!r} and may not wait for it or for what needs it)"
                )
        return f"steps wait for each other: {' → '.join(ids)}; take one of these needs out"

    def _reached(self) -> list[int]:
        """For each step, as a bit set: the steps that have ended when it runs.

        A fallback runs after its owner did, hence after all that the owner needs.
        """
        waits = [[self.index[n] for n in step.needs if n in self.index] for step in self.steps]
        owners = {self.index[name]: at for name, at in self.owner.items() if name in self.index}
        reached = [0] * len(self.steps)
        for at in _in_order(
            [[*w, *([owners[i]] if i in owners else [])] for i, w in enumerate(waits)]
        ):
            bits = reached[owners[at]] if at in owners else 0
            for need in waits[at]:
                bits |= reached[need] | (1 << need)
            reached[at] = bits
        return reached

    # ---- templates -----------------------------------------------------------------------

    def _template_problems(
        self, at: int, path: Path, text: str, before: Sequence[int] | None
    ) -> Iterator[tuple[Path, str]]:
        # Jinja2 costs 30 ms to import: only a plan with templates pays.
        from agent_runtime.plan_templates import RESULT_KEYS, read_template

        found, faults = read_template(text)
        for fault in faults:
            yield path, fault
        for name, key in found:
            if name not in self.index and name not in self.earlier:
                yield path, self._missing(name, "a template reads steps of the same plan")
            elif name not in self.index and not self.earlier[name]:
                yield path, self._spent(name)
            elif (
                name in self.index and before is not None and not self._is_before(before, at, name)
            ):
                yield path, self._unreached(at, name)
            elif key and key not in RESULT_KEYS:
                hint = self.problems.hint(key, RESULT_KEYS)
                known = ", ".join(RESULT_KEYS)
                yield path, f"a step's result has no {key!r}{hint} (known: {known})"

    def _is_before(self, before: Sequence[int], at: int, name: str) -> bool:
        return bool(before[at] >> self.index[name] & 1)

    def _unreached(self, at: int, name: str) -> str:
        step_id = self.steps[at].id
        said = f"the template reads the step {name!r}, whose result is not there yet"
        if self.index[name] == at:
            return f"the template reads the result of its own step {name!r}"
        if (owner := self.owner.get(name)) is not None and owner != at:
            owner_id = self.steps[owner].id
            return (
                f"the template reads {name!r}, which runs only as the fallback of {owner_id!r} and "
                f"stands for it: read {owner_id!r}, and name it in the needs of {step_id!r}"
            )
        if self.owner.get(step_id) == self.index[name]:
            return (
                f"the template reads {name!r}, whose fallback this step is: a step that failed "
                "has no result"
            )
        return f"{said}: add {name!r} to the needs of {step_id!r}"


def _as_id(text: str) -> str:
    made = re.sub(r"\W", "_", text, flags=re.ASCII)[:63]
    return made if _ID.match(made) else f"_{made}"


def _cycles(edges: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Cycles of a graph as closed paths, at least one of every knot, none twice."""
    state = [0] * len(edges)  # 0 new, 1 on the path, 2 done
    for root in range(len(edges)):
        if state[root]:
            continue
        path, todo = [root], [iter(edges[root])]
        state[root] = 1
        while todo:
            for after in todo[-1]:
                if state[after] == 1:
                    found = path[path.index(after) :]
                    first = found.index(min(found))
                    yield [*found[first:], *found[: first + 1]]
                elif state[after] == 0:
                    state[after] = 1
                    path.append(after)
                    todo.append(iter(edges[after]))
                    break
            else:
                state[path.pop()] = 2
                todo.pop()


def _in_order(edges: Sequence[Sequence[int]]) -> list[int]:
    """The nodes of a graph without cycles, each after those that it points to."""
    order: list[int] = []
    seen = [False] * len(edges)
    for root in range(len(edges)):
        if seen[root]:
            continue
        seen[root] = True
        path, todo = [root], [iter(edges[root])]
        while todo:
            for after in todo[-1]:
                if not seen[after]:
                    seen[after] = True
                    path.append(after)
                    todo.append(iter(edges[after]))
                    break
            else:
                order.append(path.pop())
                todo.pop()
    return order


# ---- what a template reads ---------------------------------------------------------------


def _templated(step: StepSpec) -> Iterator[tuple[Path, str]]:
    """Every text of a step that is filled before its call, with its place in the step."""
    if step.tool is None:
        return
    if step.when is not None:
        # A condition is an expression even without the braces.
        yield ("when",), step.when if "{{" in step.when else "{{ " + step.when + " }}"
    yield from _texts(step.args, ("args",))
    if step.alternative is not None:
        yield from _texts(step.alternative.args, ("alternative", "args"))


def _texts(value: Json, path: Path) -> list[tuple[Path, str]]:
    """The texts of a tool's arguments that are filled: all or none."""
    found = list(_strings(value, path))
    filled = any("{{" in text or text.lstrip().startswith("{% raw %}") for _, text in found)
    return found if filled else []


def _strings(value: Json, path: Path) -> Iterator[tuple[Path, str]]:
    match value:
        case str() if any(mark in value for mark in ("{{", "{%", "{#")):
            yield path, value
        case dict():
            for key, item in value.items():
                yield from _strings(item, (*path, key))
        case list():
            for at, item in enumerate(value):
                yield from _strings(item, (*path, at))
        case _:
            pass
