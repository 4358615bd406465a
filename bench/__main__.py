"""`make bench`: figures of this machine. Compare within one run only."""

from __future__ import annotations

from bench import steps


def main() -> None:
    """Measure and print."""
    print("whole runtime: playbook tasks of 20 no-op steps, SQLite synchronous=FULL, one process")
    print(f"{'tasks':>6} {'ended':>6} {'durable steps/s':>16} {'KB a live task':>15} {'events':>8}")
    for tasks in (1, 100, 1000):
        found = steps.measure(tasks)
        print(
            f"{found.tasks:>6} {found.ended:>6} {found.steps_per_second:>16,.0f} "
            f"{found.kilobytes_per_task:>15.1f} {found.events:>8}"
        )


if __name__ == "__main__":
    main()
