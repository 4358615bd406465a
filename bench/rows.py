"""What is compared, with whom, and what is good enough.

A row is a ratio of ours to a peer's, from measurements that took turns, or a figure of ours alone
with a bound of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.figures import Rounds, Spread, Target, ratios, short
from bench.runs import Measurement

RECOVERED = 1000
"""Half-done tasks of which a killed process has left that many."""

OURS, LOG = "agent-runtime", "agent-runtime, log alone"
LANGGRAPH, DBOS, AIOSQLITE = "LangGraph", "DBOS", "aiosqlite"
LANGGRAPH_ASYNC = "LangGraph, async"

_STEPS = {
    OURS: "bench.ours.steps",
    LOG: "bench.ours.log",
    LANGGRAPH: "bench.peers.langgraph_steps",
    LANGGRAPH_ASYNC: "bench.peers.langgraph_steps",
    DBOS: "bench.peers.dbos_steps",
    AIOSQLITE: "bench.peers.aiosqlite_steps",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Measurements that take turns, so that the rows that need them have pairs."""

    name: str
    title: str
    measurements: tuple[Measurement, ...]
    prepared: tuple[Measurement, ...] = ()
    rounds: int | None = None
    """None: as many as asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`figure` of `ours`, divided by that of `peer` if there is one."""

    group: str
    what: str
    ours: str = OURS
    peer: str = ""
    figure: str
    peer_figure: str = ""
    """What it is divided by, if that is called otherwise."""
    target: Target
    unit: str = "x"


@dataclass(frozen=True, slots=True)
class Judged:
    """A row with its figure: a ratio of each pair, or what each run told."""

    row: Row
    spread: Spread
    pairs: int

    @property
    def met(self) -> bool:
        """By the median."""
        return self.row.target.met(self.spread.median)


def _steps(names: Sequence[str], agents: int, **sizes: int) -> tuple[Measurement, ...]:
    words = ["steps", "{directory}", "--agents", str(agents)]
    for name, size in sizes.items():
        words += [f"--{name}", str(size)]
    return tuple(
        Measurement(
            name,
            _STEPS[name],
            (*words, "--durability", "async" if name == LANGGRAPH_ASYNC else "sync"),
        )
        for name in names
    )


def _half(name: str) -> Measurement:
    return Measurement(name, _STEPS[name], ("half", "{directory}", "--agents", str(RECOVERED)))


def _regain(name: str) -> Measurement:
    words = ("regain", "{directory}", "--agents", str(RECOVERED))
    return Measurement(name, _STEPS[name], words, prepared=name)


STARLETTE, FASTAPI, LANGGRAPH_DEV = "Starlette", "FastAPI + aiosqlite", "langgraph dev"
PARTS, BATCH, STREAMS = "agent-runtime, parts", "agent-runtime, batch", "agent-runtime, streams"
HOSTILE, HIBERNATED = "10,200 idle and slow connections", "100,000 hibernated, 1,000 live"
_HTTP, _HTTP_PEERS = "bench.http.measure", "bench.peers.http_measure"

MCP, TYPESCRIPT = "files over MCP", "TypeScript server-filesystem"
MCPSERVER, FASTMCP = "MCPServer of the SDK", "fastmcp"
TWO_TOOLS, HUNDRED_TOOLS = "2 tools", "100 tools"
_WHO = {
    MCP: "ours", TYPESCRIPT: "typescript", MCPSERVER: "mcpserver", FASTMCP: "fastmcp",
    TWO_TOOLS: "tools-2", HUNDRED_TOOLS: "tools-100",
}  # fmt: skip


def _mcp(wire: str) -> tuple[Measurement, ...]:
    names = [MCP, MCPSERVER, FASTMCP, TWO_TOOLS, HUNDRED_TOOLS]
    if wire == "stdio":
        names.insert(1, TYPESCRIPT)
    peers = {MCPSERVER: "bench.peers.mcp_measure", FASTMCP: "bench.peers.mcp_measure"}
    return tuple(
        Measurement(name, peers.get(name, "bench.mcp.measure"), (wire, _WHO[name], "{directory}"))
        for name in names
    )


_RECOVERING = (OURS, LANGGRAPH, DBOS)
_SANDBOXES = "bench.sandboxes"

GROUPS: Mapping[str, Group] = {
    group.name: group
    for group in (
        Group(
            "one",
            "One agent at a time",
            _steps((OURS, LANGGRAPH, DBOS, LANGGRAPH_ASYNC), 1, waves=20),
        ),
        Group(
            "hundred",
            "100 agents at once",
            _steps((OURS, LANGGRAPH, LOG, AIOSQLITE, DBOS, LANGGRAPH_ASYNC), 100),
        ),
        Group(
            "thousand",
            "1000 agents at once",
            _steps((OURS, LANGGRAPH, LOG, AIOSQLITE), 1000, hold=5, steps=5),
        ),
        Group(
            "recovery",
            "1000 half-done tasks after kill -9",
            tuple(_regain(name) for name in _RECOVERING),
            prepared=tuple(_half(name) for name in _RECOVERING),
        ),
        Group(
            "start",
            "Submitting, starting",
            (
                Measurement("first event", "bench.ours.first_event", ("{directory}",)),
                Measurement("--help", "bench.ours.start"),
            ),
        ),
        Group(
            "http",
            "The daemon over HTTP",
            tuple(
                Measurement(name, module, (kind, "{directory}"))
                for name, module, kind in (
                    (STARLETTE, _HTTP, "starlette"),
                    (OURS, _HTTP, "daemon"),
                    (FASTAPI, _HTTP_PEERS, "fastapi"),
                    (LANGGRAPH_DEV, _HTTP_PEERS, "langgraph"),
                    (PARTS, _HTTP, "parts"),
                    (BATCH, _HTTP, "batch"),
                    (STREAMS, _HTTP, "streams"),
                    (HOSTILE, _HTTP, "hostile"),
                    (HIBERNATED, "bench.http.hibernated", "100000"),
                )
            ),
        ),
        Group("stdio", "MCP over stdio", _mcp("stdio")),
        Group("mcp", "MCP over HTTP", _mcp("http")),
        Group("sandboxes", "Sandboxes", (Measurement("sandboxes", _SANDBOXES),), rounds=1),
    )
}

_SPEED = "steps_per_second"

ROWS: tuple[Row, ...] = (
    Row(group="hundred", what="bare log, 100 at once: appends a second", ours=LOG, peer=LANGGRAPH,
        figure=_SPEED, target=Target(at_least=40)),
    Row(group="hundred", what="bare log, 100 at once: appends a second", ours=LOG, peer=AIOSQLITE,
        figure=_SPEED, target=Target(at_least=5)),
    Row(group="thousand", what="bare log, 1000 at once: appends a second", ours=LOG,
        peer=LANGGRAPH, figure=_SPEED, target=Target(at_least=40)),
    Row(group="thousand", what="bare log, 1000 at once: appends a second", ours=LOG,
        peer=AIOSQLITE, figure=_SPEED, target=Target(at_least=5)),
    Row(group="hundred", what="whole runtime, 100 at once: steps a second", peer=LANGGRAPH,
        figure=_SPEED, target=Target(at_least=10)),
    Row(group="hundred", what="whole runtime, 100 at once: steps a second", peer=DBOS,
        figure=_SPEED, target=Target(at_least=10)),
    Row(group="one", what="whole runtime, one at a time: steps a second", peer=LANGGRAPH,
        figure=_SPEED, target=Target(at_least=2)),
    Row(group="one", what="whole runtime, one at a time: p99 of a step", peer=LANGGRAPH,
        figure="p99_ms", target=Target(at_most=1)),
    Row(group="recovery", what="1000 half-done tasks: seconds until all are past their next step",
        peer=LANGGRAPH, figure="seconds", target=Target(at_most=0.1)),
    Row(group="recovery", what="1000 half-done tasks: seconds until all are past their next step",
        peer=DBOS, figure="seconds", target=Target(at_most=0.02)),
    Row(group="thousand", what="memory a live task, 1000 live", peer=LANGGRAPH,
        figure="live_kib_per_agent", target=Target(at_most=1)),
    Row(group="thousand", what="memory a live task, 1000 live", figure="live_kib_per_agent",
        target=Target(at_most=49), unit="KiB"),
    Row(group="sandboxes", what="sandbox: warm call, p50", ours="sandboxes", figure="warm call",
        target=Target(at_most=1), unit="ms"),
    Row(group="sandboxes", what="sandbox: cold sh, p50", ours="sandboxes", figure="cold sh",
        target=Target(at_most=40), unit="ms"),
    Row(group="sandboxes", what="sandbox: cold worker, p50", ours="sandboxes",
        figure="cold worker", target=Target(at_most=100), unit="ms"),
    Row(group="sandboxes", what="tree of a workspace of 10,000 files, warm, p50",
        ours="sandboxes", figure="tree of 10,000 files", target=Target(at_most=50), unit="ms"),
    Row(group="http", what="durable submit (key, idempotency, rate): processor time of the server",
        figure="submit cpu_us", target=Target(at_most=60), unit="us"),
    Row(group="http", what="durable submit: processor time, by that of a small GET",
        peer=STARLETTE, figure="submit cpu_us", peer_figure="get cpu_us",
        target=Target(at_most=2.5)),
    Row(group="http", what="durable submit: processor time", peer=FASTAPI,
        figure="submit cpu_us", target=Target(at_most=1)),
    Row(group="http", what="durable submit beside one in memory: processor time",
        peer=LANGGRAPH_DEV, figure="submit cpu_us", target=Target(at_most=1)),
    Row(group="http", what="of 100 submits, found after a SIGKILL that follows the last answer",
        figure="submit kept", target=Target(at_least=100), unit="tasks"),
    *(
        Row(group="http", what=f"{what}: processor time", peer=peer, figure=f"{work} cpu_us",
            target=Target(at_most=1))
        for what, work in (("GET of a task", "get"), ("a list of ten", "list"))
        for peer in (FASTAPI, LANGGRAPH_DEV)
    ),
    Row(group="http", what="a task in a batch of 50: processor time", ours=BATCH,
        figure="batch cpu_us", target=Target(at_most=15), unit="us"),
    Row(group="http", what="an event to one of 1000 readers: processor time", ours=STREAMS,
        figure="cpu_us", target=Target(at_most=20), unit="us"),
    Row(group="http", what="an event to one of 1000 readers: p99", ours=STREAMS, figure="p99_ms",
        target=Target(at_most=100), unit="ms"),
    Row(group="http", what="beside 10,200 idle and slow connections: others that are refused",
        ours=HOSTILE, figure="beside_refused", target=Target(at_most=0), unit=""),
    Row(group="http", what="beside 10,200 idle and slow connections: p99 of the others",
        ours=HOSTILE, figure="beside_p99_ms", target=Target(at_most=250), unit="ms"),
    Row(group="http", what="memory of an idle connection", ours=HOSTILE,
        figure="kib_a_connection", target=Target(at_most=16), unit="KiB"),
    Row(group="http", what="100,000 hibernated and 1,000 live tasks: resident memory",
        ours=HIBERNATED, figure="rss_mib", target=Target(at_most=256), unit="MiB"),
    Row(group="http", what="100,000 hibernated and 1,000 live: a submit, beside an empty daemon",
        ours=HIBERNATED, figure="submit_time_ratio", target=Target(at_most=1.2)),
    Row(group="http", what="100,000 hibernated and 1,000 live: the slowest of six lists, likewise",
        ours=HIBERNATED, figure="lists_time_ratio", target=Target(at_most=1.2)),
    Row(group="stdio", what="MCP over stdio, trivial call: processor time", ours=MCP,
        peer=TYPESCRIPT, figure="trivial cpu_us", target=Target(at_most=1)),
    Row(group="stdio", what="MCP over stdio, trivial call: calls a second", ours=MCP,
        peer=TYPESCRIPT, figure="trivial per_second", target=Target(at_least=1)),
    Row(group="stdio", what="MCP over stdio, 10 KB read: processor time", ours=MCP,
        peer=TYPESCRIPT, figure="read cpu_us", target=Target(at_most=1 / 1.3)),
    Row(group="stdio", what="MCP over stdio, 10 KB read: calls a second", ours=MCP,
        peer=TYPESCRIPT, figure="read per_second", target=Target(at_least=1.3)),
    Row(group="stdio", what="MCP over stdio, trivial call: calls a second", ours=MCP,
        peer=MCPSERVER, figure="trivial per_second", target=Target(at_least=4)),
    Row(group="stdio", what="MCP over stdio, trivial call: calls a second", ours=MCP,
        peer=FASTMCP, figure="trivial per_second", target=Target(at_least=4)),
    Row(group="stdio", what="MCP over stdio: milliseconds from spawning to the first list",
        ours=MCP, peer=TYPESCRIPT, figure="start_ms", target=Target(at_most=1)),
    Row(group="stdio", what="MCP over stdio: a call among 100 tools beside one among 2",
        ours=HUNDRED_TOOLS, peer=TWO_TOOLS, figure="trivial cpu_us", target=Target(at_most=1.1)),
    Row(group="mcp", what="MCP over HTTP, trivial call: processor time", ours=MCP,
        peer=MCPSERVER, figure="trivial cpu_us", target=Target(at_most=0.25)),
    Row(group="mcp", what="MCP over HTTP, trivial call: calls a second", ours=MCP,
        peer=MCPSERVER, figure="trivial per_second", target=Target(at_least=4)),
    Row(group="mcp", what="MCP over HTTP, trivial call: calls a second", ours=MCP,
        peer=FASTMCP, figure="trivial per_second", target=Target(at_least=4)),
    Row(group="mcp", what="MCP over HTTP: a call among 100 tools beside one among 2",
        ours=HUNDRED_TOOLS, peer=TWO_TOOLS, figure="trivial cpu_us", target=Target(at_most=1.1)),
    Row(group="start", what="submission to the loop's first event, p99", ours="first event",
        figure="p99_ms", target=Target(at_most=100), unit="ms"),
    Row(group="start", what="`agent-runtime --help`, processor time", ours="--help",
        figure="cpu_ms", target=Target(at_most=150), unit="ms"),
)  # fmt: skip

EXTRAS: Mapping[str, str] = {
    LANGGRAPH_ASYNC: (
        'LangGraph with `durability="async"`, for information only: a step is written while the '
        "next one runs, so a crash may lose it."
    ),
    LANGGRAPH_DEV: (
        "`langgraph dev` is not durable: it answers from memory, which a thread of it writes to "
        'disk every ten seconds ("kept": how many of a hundred answered submits are there after a '
        "SIGKILL that follows the last answer). It asks for no credentials, has no idempotency key "
        "and bounds no rate, and its GET of a thread answers without what was handed off. Its "
        "requests walk its lists of threads and runs, so it is compared while those have some 700 "
        "entries; its last line is of the way to 3,200, where the others are."
    ),
    FASTAPI: (
        "FastAPI + aiosqlite is durable and has idempotency keys; it asks for no credentials and "
        "bounds no rate."
    ),
    PARTS: (
        "What a submit to agent-runtime consists of: a `probe` is HTTP, the looks at a request's "
        "head, and a small answer; a `refused` submit has its key, its rate and all of its body "
        "looked at besides, and gets words for its fault; from there to a `submit` it is the "
        "event, the commit and the answer. A task's share of a batch of 50 is what it costs "
        "without a request of its own. What is not in the loop's thread is the store's writer."
    ),
}


def judge(row: Row, rounds: Rounds) -> Judged:
    """The row's figure, from the rounds of its group."""
    if row.peer:
        figures = ratios(rounds, row.ours, row.peer, row.figure, row.peer_figure)
    else:
        figures = [told[row.figure] for told in rounds[row.ours]]
    return Judged(row, Spread.of(figures), len(figures))


def median(rounds: Rounds, name: str, figure: str) -> str:
    """One engine's own figure, for people."""
    told = [t[figure] for t in rounds.get(name, ()) if figure in t]
    return short(statistics.median(told)) if told else ""
