"""Counters of the server for Prometheus. Labels are names of routes and served models, never text from a request."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)  # bounds of the histograms
MODEL = ("model",)


class Metrics:
    """All counters of one server. `decoders`: of each model, by name, how it computes."""

    def __init__(self, decoders: Mapping[str, str]) -> None:
        self._registry = registry = CollectorRegistry()
        info = Info("groundup_model", "Served models, and how they compute", MODEL, registry=registry)
        self.answers = Counter(
            "groundup_http_responses", "Answers by route and status", ("route", "status"), registry=registry
        )
        self.in_progress = Gauge(
            "groundup_requests_in_progress", "Requests that wait or are being answered", MODEL, registry=registry
        )
        self.prompt_tokens = Counter("groundup_prompt_tokens", "Tokens of prompts", MODEL, registry=registry)
        self.generated_tokens = Counter("groundup_generated_tokens", "Generated tokens", MODEL, registry=registry)
        self.first_token_seconds = Histogram(
            "groundup_first_token_seconds",
            "From a request to its first token",
            MODEL,
            registry=registry,
            buckets=SECONDS,
        )
        self.request_seconds = Histogram(
            "groundup_request_seconds", "From a request to the end of its answer", MODEL, registry=registry,
            buckets=SECONDS,
        )  # fmt: skip
        by_model = (self.in_progress, self.prompt_tokens, self.generated_tokens, self.first_token_seconds)
        for name, decoder in decoders.items():  # they are there, as zeros, before the first request
            info.labels(name).info({"decoder": decoder})
            for metric in (*by_model, self.request_seconds):
                metric.labels(name)

    def text(self) -> bytes:
        """All values in Prometheus' text format."""
        return generate_latest(self._registry)


class CountAnswers:
    """ASGI middleware that counts answers by route and status; of other paths than `routes` together."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, routes: frozenset[str]) -> None:
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the answer of a request when its status is sent."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", scope["path"])  # such as /v1/models/{model:path}
                route = route if route in self.routes else "other"
                self.metrics.answers.labels(route, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counting if scope["type"] == "http" else send)
