"""Which daemon is meant, and starting one where there is none.

A daemon that is started here belongs to nobody: it outlives the client, other fronts and the
command line find it by its state file, and it ends by itself when nobody has needed it for a while.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from agent_runtime.client.places import URL_VARIABLE, Place, look_for_place
from agent_runtime.locations import state_dir_of, store_url

START_SECONDS: Final = 60.0
"""For a daemon to be there: it may have to read a large log."""
FAILED_SECONDS: Final = 5.0
"""After a daemon did not start, before another is tried."""
GRACE_SECONDS: Final = 3.0
"""For a daemon that was there to come back by itself, before another is started."""
LOOK_SECONDS: Final = 0.05
IDLE_MINUTES: Final = 60
"""After which a daemon that was started here ends, if nobody uses it and no task runs."""
LOG: Final = "daemon.log"
LOCK: Final = "start.lock"
LOG_BYTES_MAX: Final = 16 << 20


class Away(Exception):
    """There is no daemon; says why, and what to do. `may_come`: it pays to wait a little."""

    def __init__(self, reason: str, *, may_come: bool) -> None:
        super().__init__(reason)
        self.may_come = may_come


class Daemons:
    """Finds the daemon, and finds it again."""

    def __init__(
        self, *, url: str | None = None, store: str | None = None, may_start: bool = True
    ) -> None:
        self._url = url
        self._store = store_url(store)
        self._is_named = url is not None or (store is None and bool(os.environ.get(URL_VARIABLE)))
        self._state_dir = state_dir_of(self._store) if store else None
        self._directory = state_dir_of(self._store)
        self._may_start = may_start and not self._is_named
        self._failed: tuple[float, str] | None = None
        self._was_there = False
        self._gone_at: float | None = None

    def look(self) -> Place | None:
        """The one that is there now; of one that is named by its address nobody knows.

        Raises:
            UsageError, ConfigError: the address is none, or the token may be read by others.
        """
        return look_for_place(self._url, state_dir=self._state_dir)

    def find(self) -> Place:
        """The one that is there, started if need be.

        Raises:
            Away: there is none, and none is or can be started.
            UsageError, ConfigError: as `look`.
        """
        place = self.look()
        if place is not None:
            self._was_there, self._gone_at = True, None
            return place
        if not self._may_start:
            raise Away(
                f"no daemon serves {self._directory!r}: start one with `agent-runtime serve`, or "
                "leave out --no-start",
                may_come=self._was_there,
            )
        if self._was_there:
            # Somebody may be starting it anew just now; two would serve one store.
            self._gone_at = self._gone_at or time.monotonic()
            if time.monotonic() - self._gone_at < GRACE_SECONDS:
                raise Away(f"the daemon of {self._directory!r} has ended", may_come=True)
        return self._start()

    def _start(self) -> Place:
        failed = self._failed
        if failed is not None and time.monotonic() - failed[0] < FAILED_SECONDS:
            raise Away(failed[1], may_come=False)
        deadline = time.monotonic() + START_SECONDS
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            with self._alone(deadline):
                # Whoever held the lock before us has started one.
                place = self.look()
                return place if place is not None else self._launch(deadline)
        except OSError as error:
            raise Away(
                f"no daemon serves {self._directory!r}, nor can one be started: {error}",
                may_come=False,
            ) from None
        except Away as away:
            self._failed = time.monotonic(), str(away)
            raise

    def _launch(self, deadline: float) -> Place:
        import subprocess  # most find a daemon

        log = os.path.join(self._directory, LOG)
        if os.path.exists(log) and os.path.getsize(log) > LOG_BYTES_MAX:
            os.replace(log, f"{log}.1")
        os.close(os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        before = os.path.getsize(log)
        # A shell between, so that the daemon is no descendant of the client: some end all of
        # theirs. The pipe at descriptor 3 tells when it has died.
        launched = subprocess.Popen(
            [
                *("/bin/sh", "-c", '"$@" 3>&1 >>"$0" 2>&1 </dev/null &', log),
                # -P: no module is taken from the directory that it is in.
                *(sys.executable, "-P", "-m", "agent_runtime", "--store", self._store),
                *("serve", "--port", "0", "--idle-exit", str(IDLE_MINUTES)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            # Not the client's, which is any checkout: it serves other clients too, and its settings
            # are those of the user.
            cwd=self._directory,
        )
        launched.wait()
        assert launched.stdout is not None
        with launched.stdout as alive:
            while time.monotonic() < deadline:
                if (place := self.look()) is not None:
                    return place
                if select.select([alive], [], [], LOOK_SECONDS)[0] and not alive.read(1):
                    raise Away(
                        f"the daemon did not start: {_last(log, before)} (see {log!r})",
                        may_come=False,
                    )
        raise Away(
            f"the daemon does not come within {START_SECONDS:.0f} s (see {log!r})", may_come=False
        )

    @contextmanager
    def _alone(self, deadline: float) -> Iterator[None]:
        """One at a time starts daemons of this state directory."""
        import fcntl  # most find a daemon

        with open(os.path.join(self._directory, LOCK), "ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Away(
                            f"another process is starting a daemon for {self._directory!r} and "
                            "does not come to an end",
                            may_come=False,
                        ) from None
                    time.sleep(LOOK_SECONDS)
            yield


def _last(log: str, before: int) -> str:
    """What it said at the end."""
    with open(log, "rb") as file:
        file.seek(before)
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line]
    return lines[-1] if lines else "it said nothing"
