"""The worker's first lines inside the sandbox: argv[1:] are the directories to import from.

Run as a script with `-I -S`: no site-packages but those named, no `.pth` files, nothing from the
working directory, so that nothing in the workspace can put itself in the runtime's place. What the
worker does is in `serving`.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Serve the daemon on fd 0 until it closes the channel."""
    sys.path += sys.argv[1:]
    # Without this package msgspec takes what it needs from `typing`: saves 35 of 60 ms of a start.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    import msgspec.msgpack  # noqa: F401

    del sys.modules["typing_extensions"]
    from agent_runtime.sandboxes import serving

    serving.serve()


if __name__ == "__main__":
    main()
