"""What test runners tell about every single test.

`channel` is the way out of the sandbox for the reports of runners that can be asked for one from
the outside; `pytest_lines` and `jest_documents` read those, written by what lies in `inside`.
`printed` reads names where a runner prints them itself (go, cargo, unittest, node). `counts` (next
door) is what is left for all others.
"""

from agent_runtime.workspaces.test_reports.channel import Channel
from agent_runtime.workspaces.test_reports.reading import seen_in

__all__ = ["Channel", "seen_in"]
