"""`python -m tests.simulation --lives 100000 --exhaustive`: lives for hours, on two processes.

Prints the base seed first. A seed or a crash point that breaks a promise is printed with the
command that lives it again; the others go on, and the end is non-zero.
"""

import argparse
import secrets
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.checks import run_life
from tests.simulation.lives import crash_failures, failures_of, points_of, whole_life
from tests.simulation.plans import SCENES
from tests.simulation.world import Chances

PROCESSES = 2
CHUNK = 100

Job = tuple[str, int, int, Chances]
"""(scene or empty, first, after the last, chances)."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--lives", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="the first seed; default: by chance")
    parser.add_argument("--crashes", type=int, default=1, help="owners of a life that die")
    parser.add_argument("--fault", type=float, default=0.1, help="chance of a fault")
    parser.add_argument("--exhaustive", action="store_true", help="crash the scenes at every point")
    parser.add_argument("--scene", choices=sorted(SCENES), help="only this fixed task")
    parser.add_argument("--crash-at", type=int, help="crash the scene at this point and show why")
    asked = parser.parse_args()
    if asked.scene and asked.crash_at:
        run_life(0, Chances(fault=0.0, crash_at=asked.crash_at), SCENES[asked.scene])
        return 0
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    chances = Chances(fault=asked.fault, crashes=asked.crashes)
    print(f"base seed {seed}", flush=True)
    if asked.lives == 1 and not asked.exhaustive:
        whole_life(seed, chances)
        return 0
    scenes = [asked.scene] if asked.scene else list(SCENES) if asked.exhaustive else []
    lives = 0 if asked.scene else asked.lives
    return _run_all(list(_jobs(seed, lives, scenes, chances)))


def _jobs(seed: int, lives: int, scenes: list[str], chances: Chances) -> Iterator[Job]:
    for name in scenes:
        points = points_of(name)
        for first in range(1, points + 1, CHUNK):
            yield name, first, min(first + CHUNK, points + 1), chances
    for first in range(seed, seed + lives, CHUNK):
        yield "", first, min(first + CHUNK, seed + lives), chances


def _do(job: Job) -> list[str]:
    scene, first, end, chances = job
    if scene:
        return crash_failures(scene, range(first, end))
    return failures_of(range(first, end), chances)


def _run_all(jobs: list[Job]) -> int:
    began, lived, failures = time.monotonic(), 0, list[str]()
    told = began
    with ProcessPoolExecutor(PROCESSES) as pool:
        for job, found in zip(jobs, pool.map(_do, jobs), strict=True):
            lived += job[2] - job[1]
            failures += found
            for line in found:
                print(line, flush=True)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                print(f"{lived} lives, {lived / (told - began):.0f}/s", flush=True)
    seconds = time.monotonic() - began
    crashes = sum(end - first for scene, first, end, _ in jobs if scene)
    print(
        f"{lived} lives ({crashes} of them at every point of fixed tasks), {lived / seconds:.0f}/s"
    )
    kinds = {
        "lost": "lost",
        "repeated effects": "repeated",
        "unreported": "unreported",
        "stuck": "stuck",
        "budget overshoot": "overshoot",
        "decided differently": "decided differently",
    }
    for title, word in kinds.items():
        print(f"  {sum(word in line.split(chr(10))[0] for line in failures)} {title}")
    print(f"  {len(failures)} failed in all")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
