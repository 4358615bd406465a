"""The bus inside one process: who drives a task, or watches it, hears that its log has grown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from agent_runtime.types import TaskId

News = TypeVar("News")


class _Callbacks(Generic[News]):
    """Who hears of what, by task."""

    def __init__(self) -> None:
        self._heard: dict[TaskId, list[Callable[[News], None]]] = {}

    def __contains__(self, task_id: TaskId) -> bool:
        return task_id in self._heard

    def tell(self, task_id: TaskId, news: News) -> None:
        for heard in tuple(self._heard.get(task_id, ())):
            heard(news)

    def add(self, task_id: TaskId, heard: Callable[[News], None]) -> Callable[[], None]:
        """Until the returned function is called."""
        callbacks = self._heard.setdefault(task_id, [])
        callbacks.append(heard)

        def remove() -> None:
            callbacks.remove(heard)
            if not callbacks:
                self._heard.pop(task_id, None)

        return remove


class LocalBus:
    """Publishes to callbacks; a reader that is not there misses nothing, the log has it all."""

    def __init__(self) -> None:
        self._readers = _Callbacks[int]()

    def publish(self, task_id: TaskId, seq: int) -> None:
        """The log of `task_id` reaches to `seq` now."""
        self._readers.tell(task_id, seq)

    def subscribe(self, task_id: TaskId, heard: Callable[[int], None]) -> Callable[[], None]:
        """Call `heard(seq)` on every publish until the returned function is called."""
        return self._readers.add(task_id, heard)


class LocalListeners:
    """Who hears a model's text as it comes, in this process. Nobody: nothing is streamed."""

    def __init__(self) -> None:
        self._listeners = _Callbacks[str]()

    def of(self, task_id: TaskId) -> Callable[[str], None] | None:
        """Passes each piece of text on to everybody who listens now; None: nobody does."""
        if task_id not in self._listeners:
            return None
        return lambda text: self._listeners.tell(task_id, text)

    def listen(self, task_id: TaskId, heard: Callable[[str], None]) -> Callable[[], None]:
        """Call `heard(text)` with each piece until the returned function is called."""
        return self._listeners.add(task_id, heard)
