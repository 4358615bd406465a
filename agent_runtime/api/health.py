"""Probes and figures: is the process alive, does it take work, what has it done."""

from __future__ import annotations

from agent_runtime.api.answers import Answer, Reply, json_answer
from agent_runtime.api.daemon import Readiness
from agent_runtime.api.operations import Request, operation
from agent_runtime.api.views import Health


@operation("GET", "/livez", answers={200: Health})
async def livez(request: Request[None, None]) -> Reply:
    """The process answers. Whether it takes work is another question: `/readyz`."""
    return json_answer(Health(status="ok", version=request.daemon.version))


@operation("GET", "/readyz", answers={200: Health, 503: Health})
async def readyz(request: Request[None, None]) -> Reply:
    """The daemon takes work and can keep it; 503 says why not."""
    daemon = request.daemon
    if daemon.readiness is Readiness.READY and not daemon.faults:
        return json_answer(Health(status="ok", version=daemon.version))
    status = daemon.readiness if daemon.readiness is not Readiness.READY else "faulty"
    # What is wrong may name paths: only who has credentials reads it, in the log and `doctor`.
    faults = dict.fromkeys(daemon.faults, "see the daemon's log")
    return json_answer(
        Health(status=status, version=daemon.version, faults=faults), 503, ((b"retry-after", b"2"),)
    )


@operation("GET", "/metrics", answers={200: "text/plain"}, scope="tasks:read")
async def metrics(request: Request[None, None]) -> Reply:
    """Figures in Prometheus' text format; docs/http.md explains each."""
    daemon = request.daemon
    store = daemon.runtime.ports.store
    text = daemon.metrics.render(
        tasks=await store.counts(),
        driven=daemon.runtime.supervisor.driven,
        streams=daemon.hub.followers,
        position=await store.position(),
        faults=daemon.faults,
        deliveries=await daemon.notices.pending() if daemon.notices is not None else {},
    )
    return Answer(200, text, (), b"text/plain; version=0.0.4; charset=utf-8")
