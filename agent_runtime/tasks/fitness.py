"""Whether a task could run here: everything that can be known before it is stored."""

from __future__ import annotations

from collections.abc import Sequence

from agent_runtime.errors import ConfigError, DiskFull, Fault, UsageError, WorkspaceError
from agent_runtime.loop.discover import plan_problems, unknown_names
from agent_runtime.ports.everything import Ports
from agent_runtime.ports.publisher import Publisher
from agent_runtime.resources import above
from agent_runtime.tasks.reads import Reads
from agent_runtime.types import TaskSpec


class Fitness(Reads):
    """Refuses what could only fail."""

    async def refuse_what_cannot_run(self, spec: TaskSpec) -> None:
        """Look at everything that can be known about a task before it is stored.

        Raises:
            UsageError, ConfigError: as `take_in`.
        """
        wrong = plan_problems(spec, self.ports.toolbox)
        others = unknown_names(spec, self.ports.toolbox)
        others += above(spec.environment.resources, self.ports.sandbox_ceiling)
        if wrong or others:
            lines = [f"step {step_id!r}: {text}" for step_id, text in wrong]
            faults = [*_faults_of_steps(spec, wrong), *map(_fault_of_key, others)]
            raise UsageError("\n".join([*lines, *others]), faults=faults)
        if spec.model is not None and self.ports.model is None:
            raise ConfigError(
                f"no installed adapter can reach the model {spec.model!r}: give the task a plan, "
                "or install a plug-in of the group 'agent_runtime.models'"
            )
        self.ports.environment.check(spec)
        if spec.workspace is not None:
            try:
                await self.ports.workspaces.check(spec.workspace)
            except DiskFull:
                raise
            except WorkspaceError as error:
                key = "" if str(error).startswith("workspace.") else "workspace.repo: "
                raise UsageError(
                    f"{key}{error}", faults=[Fault(("workspace", "repo"), str(error))]
                ) from error
        if spec.publish is not None:
            await publisher_of(self.ports).check(spec)


def publisher_of(ports: Ports) -> Publisher:
    """`ConfigError` if this installation cannot publish."""
    if ports.publisher is None:
        raise ConfigError("this installation cannot publish: leave out `publish`")
    return ports.publisher


def _faults_of_steps(spec: TaskSpec, wrong: Sequence[tuple[str, str]]) -> list[Fault]:
    places = {step.id: at for at, step in enumerate(spec.plan.steps if spec.plan else ())}
    return [Fault(("plan", "steps", places[step_id]), text) for step_id, text in wrong]


def _fault_of_key(problem: str) -> Fault:
    """Of a message that begins with the key it is about: `policy.tools: …`."""
    key, _, text = problem.partition(": ")
    return Fault(tuple(key.split(".")), text)
