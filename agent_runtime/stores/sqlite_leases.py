"""Many leases in one write: a thousand tasks of a killed process come back together."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from agent_runtime.errors import LeaseHeld, NotFound
from agent_runtime.stores.owners import Owners
from agent_runtime.stores.sqlite_writes import Claim, Release, Write
from agent_runtime.types import Lease, TaskId


class ClaimAll(Write[list[Lease]]):
    """Take the leases that nobody alive has, and leave out the others."""

    def __init__(self, task_ids: Sequence[TaskId], owners: Owners) -> None:
        super().__init__()
        self._claims = [Claim(task_id, owners) for task_id in task_ids]

    def run(self, db: apsw.Connection) -> list[Lease]:
        leases: list[Lease] = []
        for claim in self._claims:
            try:
                leases.append(claim.run(db))
            except (LeaseHeld, NotFound):
                continue
        return leases


class UnclaimAll(Write[None]):
    """Undo claims whose caller has gone: nobody else would release those leases."""

    def __init__(self, claims: ClaimAll, owners: Owners) -> None:
        super().__init__()
        self._claims, self._owners = claims, owners

    def run(self, db: apsw.Connection) -> None:
        if self._claims.succeeded:
            for lease in self._claims.answer():
                Release(lease, self._owners).run(db)
