"""A pytest plug-in that tells the runtime what became of every test, one line of JSON at a time.

pytest finds it by the entry point beside it, because its directory is on PYTHONPATH: where that is
not looked at, it is not there, and nothing else changes. What it writes goes into a pipe, so that
what was told cannot be taken back. It runs in the process of the code under test: see the docs for
what that means. Any Python from 3.6 on.
"""

import json
import os
from typing import Any

import pytest

_PIPE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "pytest")
_MARK = "AGENT_RUNTIME_REPORTING"
"""Set while a session reports: those that tests start themselves do not."""

# Taken now: tests replace functions of `os`.
_open, _write, _close, _dumps, _getpid = os.open, os.write, os.close, json.dumps, os.getpid
_RANK = {"passed": 0, "skipped": 1, "failed": 2, "error": 3}


def pytest_configure(config: Any) -> None:
    """Report this session, if it is the outermost one and no worker of pytest-xdist."""
    if os.environ.get(_MARK) or hasattr(config, "workerinput"):
        return
    reporter = Reporter(str(getattr(config, "rootpath", None) or config.rootdir))
    config.pluginmanager.register(reporter, "agent_runtime_reporter")


def pytest_unconfigure(config: Any) -> None:
    """Another session of the same process may report again."""
    if config.pluginmanager.hasplugin("agent_runtime_reporter"):
        os.environ.pop(_MARK, None)


class Reporter:
    """The hooks of one session that reports."""

    count = 0

    def __init__(self, root: str) -> None:
        Reporter.count += 1
        self.root = root
        self.pid = _getpid()
        self.session = f"{self.pid}.{Reporter.count}"
        self.verdicts: dict[str, str] = {}

    def tell(self, **facts: Any) -> bool:
        """Write one line; False if nobody listens. The pipe is opened anew: tests close files."""
        if _getpid() != self.pid:  # a test forked
            return False
        facts["session"] = self.session
        data = (_dumps(facts) + "\n").encode("ascii")
        try:
            fd = _open(_PIPE, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return False
        try:
            while data:
                data = data[_write(fd, data) :]
        except OSError:
            return False
        finally:
            _close(fd)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Not earlier: `pytest --help` has no session, and so no end of it."""
        if self.tell(start=pytest.__version__, root=self.root):
            os.environ[_MARK] = self.session

    def found(self, names: Any) -> None:
        """Tell the names of tests that are about to run, some at a time."""
        for start in range(0, len(names), 20):
            self.tell(found=names[start : start + 20])

    def pytest_collection_finish(self, session: Any) -> None:
        """Empty in the controller of pytest-xdist."""
        self.found([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Any) -> None:
        """Every worker finds the same tests."""
        self.found(list(ids))

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be collected has no tests."""
        if report.failed:
            self.tell(broken=report.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """One phase of one test. A subtest counts if it fails; one that runs again, at its end."""
        outcome = report.outcome
        if outcome not in _RANK:  # `rerun`, by pytest-rerunfailures
            self.verdicts.pop(report.nodeid, None)
            return
        if hasattr(report, "context") and outcome != "failed":
            return
        if outcome == "failed" and report.when in ("setup", "teardown"):
            outcome = "error"
        known = self.verdicts.get(report.nodeid, "passed")
        self.verdicts[report.nodeid] = max(known, outcome, key=_RANK.__getitem__)
        if report.when not in ("setup", "call", "teardown"):  # the worker that ran it died
            self.settle(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """All phases are told."""
        self.settle(nodeid)

    def settle(self, nodeid: str) -> None:
        """Tell the verdict on a test."""
        if nodeid in self.verdicts:
            self.tell(test=nodeid, verdict=self.verdicts.pop(nodeid))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_sessionfinish(self, session: Any, exitstatus: Any) -> Any:
        """Before any other plug-in changes its mind about the exit code."""
        for nodeid in list(self.verdicts):
            self.settle(nodeid)
        self.tell(end=int(exitstatus))
        yield
