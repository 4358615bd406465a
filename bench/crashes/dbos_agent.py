"""DBOS: steps `pay` and `close` of a workflow, its SQLite system database in WAL mode.

Launching recovers the workflow, as documented. What it knows is looked up in the workflow's status
and its list of steps.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from importlib.metadata import version

from dbos import DBOS, DBOSConfig, SetWorkflowID

from bench.crashes import outside


@DBOS.step()
def pay() -> str:
    """The effect."""
    outside.pay()
    return "paid"


@DBOS.step()
def close() -> str:
    """The step behind it."""
    outside.close()
    return "closed"


@DBOS.workflow()
def work() -> str:
    """Both."""
    pay()
    return close()


path = os.path.join(sys.argv[2], "dbos.db")
config: DBOSConfig = {
    "name": "crashes",
    "system_database_url": f"sqlite:///{path}",
    "application_version": "1",
    "executor_id": "one",
    "log_level": "ERROR",
    "run_admin_server": False,
}
DBOS(config=config)
with sqlite3.connect(path) as connection:
    connection.execute("PRAGMA journal_mode=WAL")
connection.close()
DBOS.launch()
if sys.argv[1] == "first":
    with SetWorkflowID("one"):
        work()
else:
    handle = DBOS.retrieve_workflow("one")
    ended = handle.get_result()
    status = handle.get_status()
    steps = [step["function_name"].split(".")[-1] for step in DBOS.list_workflow_steps("one")]
    attempts = getattr(status, "recovery_attempts", None)
    outside.tell(
        ended=ended,
        said=(
            f"its workflow has attempts={attempts} and {steps.count('pay')} record of pay; "
            "nothing says which step may have run twice"
        ),
        reported=False,
        versions={"dbos": version("dbos")},
    )
os._exit(0)
