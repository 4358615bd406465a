"""Processor time of `agent-runtime --help`, beside a Python that does nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from bench import meter

RUNS = 10


def cpu_ms(argv: list[str]) -> list[float]:
    """Sorted milliseconds of user and system time."""
    taken = []
    for _ in range(RUNS + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        taken.append(1000 * (user + system))
    return sorted(taken[1:])  # the first one may write bytecode


def main() -> None:
    """`python -m bench.ours.start`: one line of JSON."""
    command = os.path.join(os.path.dirname(sys.executable), "agent-runtime")
    helped, bare = cpu_ms([command, "--help"]), cpu_ms([sys.executable, "-c", "pass"])
    meter.tell(cpu_ms=helped[RUNS // 2], python_cpu_ms=bare[RUNS // 2])


if __name__ == "__main__":
    main()
