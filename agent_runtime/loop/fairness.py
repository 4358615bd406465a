"""Whose turn it is when more tasks want to be driven than there is room for.

Tasks of one submitter and one priority form a queue, the oldest first. Among the queues:

1. the highest *level* goes first: its priority, and one more for each `AGEING_SECONDS` in which the
   queue waited and nothing of it began. So the lowest priority is late, and never forgotten
   (ageing: Silberschatz, Galvin and Gagne, Operating System Concepts, section 5.3.4);
2. then the submitter who has the fewest tasks running, so that room is shared in equal parts
   whatever each has queued (max-min fairness: Bertsekas and Gallager, Data Networks, 6.5.2; as in
   Hadoop's fair scheduler);
3. then whose last turn is longest ago: round robin.

A queue that is served often does not age, however old its tasks are: a flood of one submitter
gains nothing against the others by having been there first.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterable

from agent_runtime.types import Ready, TaskId

AGEING_SECONDS = 300.0
"""Waiting that long is worth one priority; from 0 to 9 it takes three quarters of an hour."""

QUEUES_REMEMBERED = 10_000

Queue = tuple[str, int]
"""Submitter and priority."""


class Turns:
    """Who runs now, and who had the last turns. Knows no clock: times are told, in microseconds."""

    def __init__(self, *, submitter_max: int | None = None) -> None:
        self._submitter_max = submitter_max
        self._submitters: dict[TaskId, str] = {}
        self.running: Counter[str] = Counter()
        """Tasks of each submitter that are being driven."""
        self._served_us: dict[Queue, int] = {}
        self._served: dict[Queue, int] = {}
        self._turns = 0

    def begin(self, task: Ready, now_us: int) -> None:
        """It is driven from now on."""
        queue = (task.submitted_by, task.priority)
        self._submitters[task.task_id] = task.submitted_by
        self.running[task.submitted_by] += 1
        self._turns += 1
        for served, value in ((self._served_us, now_us), (self._served, self._turns)):
            served.pop(queue, None)  # to the end: what is first was served longest ago
            served[queue] = value
            if len(served) > QUEUES_REMEMBERED:
                del served[next(iter(served))]

    def end(self, task_id: TaskId) -> None:
        """Nobody drives it any more; nothing happens if nobody did."""
        submitter = self._submitters.pop(task_id, None)
        if submitter is None:
            return
        self.running[submitter] -= 1
        if not self.running[submitter]:
            del self.running[submitter]

    def choose(self, ready: Iterable[Ready], room: int, now_us: int) -> list[Ready]:
        """At most `room` of them, in the order in which they are to begin."""
        chosen: list[Ready] = []
        running = Counter(self.running)
        queues: dict[Queue, deque[Ready]] = defaultdict(deque)
        for task in ready:
            if not task.begun:
                queues[task.submitted_by, task.priority].append(task)
            elif len(chosen) < room and self._may_run(task.submitted_by, running):
                chosen.append(task)
                running[task.submitted_by] += 1
        turns = {queue: self._served.get(queue, 0) for queue in queues}
        since_us = {
            queue: max(tasks[0].since_us, self._served_us.get(queue, 0))
            for queue, tasks in queues.items()
        }

        def rank(queue: Queue) -> tuple[float, int, int, str]:
            waited = max(0, now_us - since_us[queue]) / 1e6
            level = queue[1] + waited // AGEING_SECONDS
            return (-level, running[queue[0]], turns[queue], queues[queue][0].task_id)

        # A turn makes the ranks of its submitter's queues worse and no rank better: one that is
        # found to have changed goes back, and what is then on top is the best.
        heap = [(rank(queue), queue) for queue in queues]
        heapq.heapify(heap)
        number = self._turns
        while heap and len(chosen) < room:
            known, queue = heap[0]
            if not self._may_run(queue[0], running):
                heapq.heappop(heap)
            elif known != (now := rank(queue)):
                heapq.heapreplace(heap, (now, queue))
            else:
                chosen.append(queues[queue].popleft())
                running[queue[0]] += 1
                number += 1
                turns[queue], since_us[queue] = number, now_us
                if queues[queue]:
                    heapq.heapreplace(heap, (rank(queue), queue))
                else:
                    heapq.heappop(heap)
        return chosen

    def _may_run(self, submitter: str, running: Counter[str]) -> bool:
        return self._submitter_max is None or running[submitter] < self._submitter_max
