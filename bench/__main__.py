"""`make bench`: figures of this machine. Compare within one run only."""

from __future__ import annotations

import subprocess
import sys


def main() -> None:
    """Measure and print; each row in a process of its own, so that memory is its own too."""
    print("whole runtime: playbook tasks of 20 no-op steps, SQLite synchronous=FULL, one process")
    print(f"{'tasks':>6} {'ended':>6} {'durable steps/s':>16} {'KB a live task':>15} {'events':>8}")
    for tasks in (1, 100, 1000):
        subprocess.run([sys.executable, "-m", "bench.steps", str(tasks)], check=True)
    print("one durable append, SQLite synchronous=FULL, milliseconds from call to answer")
    print(f"{'writers':>7} {'writes':>7} {'p50 ms':>8} {'p99 ms':>8}")
    for writers in (1, 100):
        subprocess.run([sys.executable, "-m", "bench.appends", str(writers)], check=True)
    print("sandboxes beside a plain process, milliseconds; a worker is cold until it has answered")
    print(f"{'':<34} {'runs':>5} {'p50 ms':>8} {'p99 ms':>8} {'x plain sh':>10} {'p50 max':>8}")
    subprocess.run([sys.executable, "-m", "bench.sandboxes"], check=False)


if __name__ == "__main__":
    main()
