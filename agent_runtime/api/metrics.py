"""Figures for Prometheus, named as its conventions have it (base units, `_total` for counters)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from agent_runtime.api.answers import Message, Receive, Scope, Send
from agent_runtime.types import Status

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Metrics:
    """One registry for a process; several daemons in one process (tests) do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._seen = _Seen()
        self.registry.register(self._seen)
        self.tasks = Gauge(
            "agent_runtime_tasks", "Tasks in the store, by status.", ("status",),
            registry=self.registry,
        )  # fmt: skip
        self.driven = Gauge(
            "agent_runtime_tasks_driven", "Tasks that this process drives now.",
            registry=self.registry,
        )  # fmt: skip
        self.streams = Gauge(
            "agent_runtime_streams", "Event streams that are open now.", registry=self.registry
        )
        self.events = Counter(
            "agent_runtime_events", "Events that any process has stored.", registry=self.registry
        )
        self.deliveries = Counter(
            "agent_runtime_deliveries", "Tries to tell others of events, by kind and outcome.",
            ("kind", "outcome"), registry=self.registry,
        )  # fmt: skip
        for kind in ("webhook", "notify"):
            for outcome in ("delivered", "retried", "failed"):
                self.deliveries.labels(kind, outcome)
        self.deliveries_pending = Gauge(
            "agent_runtime_deliveries_pending", "Messages to others that wait, by kind.",
            ("kind",), registry=self.registry,
        )  # fmt: skip
        self.faults = Gauge(
            "agent_runtime_faults", "1 for each fault that keeps work from being taken.",
            ("fault",), registry=self.registry,
        )  # fmt: skip
        self._position = 0

    def render(
        self,
        *,
        tasks: Mapping[str, int],
        driven: int,
        streams: int,
        position: int,
        faults: Iterable[str],
        deliveries: Mapping[str, int] = {},
    ) -> bytes:
        """The figures, with those that are looked up when somebody asks."""
        for status in Status:
            self.tasks.labels(status.value).set(tasks.get(status.value, 0))
        self.driven.set(driven)
        self.streams.set(streams)
        self.events.inc(max(0, position - self._position))
        self._position = max(position, self._position)
        for kind, number in deliveries.items():
            self.deliveries_pending.labels(kind).set(number)
        self.faults.clear()
        for name in faults:
            self.faults.labels(name).set(1)
        return generate_latest(self.registry)

    def delivered(self, kind: str, outcome: str) -> None:
        """Count one try to tell somebody."""
        self.deliveries.labels(kind, outcome).inc()

    def observe(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count one request; `seconds` None: a stream."""
        self._seen.add(method, route, status, seconds)


class _Seen(Collector):
    """Requests by what they were. Plain counters: the library's cost ten times as much each."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}
        self._times: dict[str, list[float]] = {}
        """Of each route: how many in each bucket, the last without an upper bound, and the sum."""

    def add(self, method: str, route: str, status: int, seconds: float | None) -> None:
        key = (method, route, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        if seconds is None or not route:
            return
        times = self._times.get(route)
        if times is None:
            times = self._times[route] = [0.0] * (len(SECONDS) + 2)
        times[bisect_left(SECONDS, seconds)] += 1
        times[-1] += seconds

    def collect(self) -> Iterable[Metric]:
        """As the library asks for it."""
        requests = CounterMetricFamily(
            "agent_runtime_http_requests",
            "Requests by method, operation and status.",
            labels=("method", "route", "status"),
        )
        for (method, route, status), count in self._counts.items():
            requests.add_metric((method, route or "none", str(status)), count)
        yield requests
        latency = HistogramMetricFamily(
            "agent_runtime_http_request_duration_seconds",
            "From the request's head to the answer's end, by operation; streams are left out.",
            labels=("route",),
        )
        bounds = [*(str(bound) for bound in SECONDS), "+Inf"]
        for route, times in self._times.items():
            buckets = list(zip(bounds, accumulate(times[:-1]), strict=True))
            latency.add_metric((route,), buckets, times[-1])
        yield latency


KNOWN_METHODS: Final[Mapping[str, str]] = {
    name: name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}
"""A stranger must not make labels up."""


class Measured:
    """Counts and times what passes. Stands outside everything, so that refusals count too."""

    def __init__(self, app: App, metrics: Metrics, monotonic: Callable[[], float]) -> None:
        self._app = app
        self._metrics = metrics
        self._monotonic = monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = self._monotonic()
        status = 0
        is_stream = False

        async def measured(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message.get("more_body"):
                is_stream = True
            await send(message)

        try:
            await self._app(scope, receive, measured)
        finally:
            # 499: the client went before there was an answer, as nginx writes it down.
            method = KNOWN_METHODS.get(scope["method"], "other")
            route = str(scope.get("operation", ""))
            seconds = None if is_stream else self._monotonic() - begun
            self._metrics.observe(method, route, status or 499, seconds)
