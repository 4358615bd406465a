"""Looking back: the same decisions again, what an event rests on, and two tasks side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from agent_runtime.comparison import Comparison, compare
from agent_runtime.errors import DiskFull, WorkspaceError
from agent_runtime.loop import codec
from agent_runtime.loop.replay import Replayed, replay
from agent_runtime.loop.state import State
from agent_runtime.loop.why import Link, chain, seq_asked
from agent_runtime.tasks.reads import Reads
from agent_runtime.types import Row, TaskId, TreeId


class Hindsight(Reads):
    """Reads logs to learn from them; nothing is stored."""

    async def replay(self, task_id: TaskId) -> Replayed:
        """Decide the task again from its recorded inputs; see `loop.replay`.

        Raises:
            CorruptLog: the log is not what was written, so there is nothing to compare with.
        """
        rows = await self.ports.store.load(task_id)
        codec.check_chain(rows, task_id=task_id)
        return replay(rows)

    async def why(
        self, task_id: TaskId, seq: int | None, depth: int
    ) -> tuple[list[Row], list[Link]]:
        """The log, and what event `seq` rests on; without a number, the last thing decided.

        Raises:
            NotFound: there is no such event.
        """
        rows = await self.ports.store.load(task_id)
        codec.check_chain(rows, task_id=task_id)
        events = [codec.decode(row) for row in rows]
        return rows, chain(events, seq_asked(task_id, events, seq), depth)

    async def compare(self, one: TaskId, other: TaskId) -> Comparison:
        """Two tasks side by side; see `comparison`.

        Raises:
            NotFound, CorruptLog: as for `state`.
        """
        sides = [await self._load(task_id) for task_id in (one, other)]
        files: tuple[Mapping[str, str], Mapping[str, str]] | str
        try:
            files = (await self._changed_files(sides[0][0]), await self._changed_files(sides[1][0]))
        except DiskFull:
            raise
        except WorkspaceError as error:
            files = f"the files cannot be compared: {error}"
        (left, _, left_events), (right, _, right_events) = sides
        return compare((left, left_events), (right, right_events), files)

    async def _changed_files(self, state: State) -> Mapping[str, str]:
        """Path -> SHA-256 of what the task changed, up to its last tree, or `removed`, `a link`."""
        if state.workspace is None or not state.workspace.base_tree:
            return {}
        base = TreeId(state.workspace.base_tree)
        found, kept = state.verification, state.kept
        last = (found.tree if found else "") or (kept.tree if kept else "") or state.tree
        task_id, tree = TaskId(state.task_id), TreeId(last)
        changes = await self.ports.workspaces.changes(task_id, base, tree)
        there = [change.path for change in changes if change.kind != "D"]
        contents = await self.ports.workspaces.contents(task_id, tree, there)
        return dict.fromkeys((change.path for change in changes), "removed") | {
            path: "a link" if content is None else hashlib.sha256(content).hexdigest()
            for path, content in contents.items()
        }
