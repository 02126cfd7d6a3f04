"""The routes of the server: completions, models, health, metrics, and pages for people.

    app = create_app({"book": load("runs/book")})

Every error is JSON in OpenAI's form; no page makes a browser contact another host.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from groundup import __version__
from groundup.checkpoint.state import LoadedModel
from groundup.errors import GroundupError
from groundup.generation.engine import Engine
from groundup.run.drafts import Speculation, drafter_of
from groundup.server import schemas
from groundup.server.completions import Answer, Planner
from groundup.server.limits import STALL_SECONDS, Gate, Limits, error_response
from groundup.server.metrics import CONTENT_TYPE, CountAnswers, Metrics
from groundup.server.pages import docs_page, front_page
from groundup.server.schemas import ApiError, Choice, Completion, CompletionRequest, Health, Model, ModelList
from groundup.server.worker import Part, Stream, Worker, failed

T = TypeVar("T")

CHAT = "models trained here continue a text and do not chat; send the text as `prompt` to /v1/completions"
EMBEDDINGS = "models trained here continue a text and have no embeddings of texts; use a model that is made for them"
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": schemas.Error}, "5XX": {"model": schemas.Error}}
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}  # JSON, or [DONE]
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": EVENT}}}}
TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
LONG_BODY_BYTES = 16 << 10  # of longer ones, the prompts are encoded in another thread
CLIENT_LEFT = 499  # status of an answer that nobody receives

logger = logging.getLogger("groundup.server")


def create_app(
    models: Mapping[str, LoadedModel],
    *,
    limits: Limits | None = None,
    slots: int = 8,
    speculation: Speculation = "auto",
    key: str | None = None,
    hosts: Collection[str] = (),
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """The server's application (ASGI), for models by name.

    `slots`: texts generated at once per model. `key`: what clients must send; none: nothing. `hosts`: names under which
    the server may be addressed; none: any. `cors_origins`: sites whose pages may use the server; `*`: all.
    """
    limits = limits or Limits()
    server = Server(models, limits, slots, speculation, has_key=key is not None)
    app = FastAPI(
        title="groundup",
        description="Completions by models that were trained with groundup, in the form of OpenAI's API.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=server.lifespan,
        responses=ERRORS,
    )
    app.state.server = server
    server.add_routes(app)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    # The last one added is the first that a request passes: a preflight of CORS comes without a key.
    app.add_middleware(Gate, limits=limits, key=key, hosts=frozenset(hosts))
    if cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(cors_origins), allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    routes = frozenset(getattr(route, "path", "") for route in app.routes)
    app.add_middleware(CountAnswers, metrics=server.metrics, routes=routes)
    return app


class ServedModel:
    """A model under its name, with the thread that generates."""

    def __init__(self, name: str, loaded: LoadedModel, limits: Limits, slots: int, speculation: Speculation) -> None:
        self.name, self.tokenizer, self.planner = name, loaded.tokenizer, Planner(loaded, limits)
        self.card = Model(id=name, created=int(time.time()))
        per_request = max(1, slots - 1)  # a slot is left for others, however much one asks for
        new_drafter = drafter_of(loaded, speculation)
        new_drafter(())  # reads the training text now, which would delay a request
        new_engine = partial(
            Engine, loaded.model, loaded.tokenizer, loaded.device, slots=slots, per_owner=per_request,
            new_drafter=new_drafter, draft_sampled=speculation == "on",
        )  # fmt: skip
        self.worker = Worker(new_engine, max_requests=limits.requests)


class Server:
    """The functions of all routes; their docstrings are the documentation of the API."""

    def __init__(
        self,
        models: Mapping[str, LoadedModel],
        limits: Limits,
        slots: int,
        speculation: Speculation,
        *,
        has_key: bool,
    ) -> None:
        self.models = {name: ServedModel(name, each, limits, slots, speculation) for name, each in models.items()}
        self.limits, self.has_key = limits, has_key
        self.metrics = Metrics({name: model.worker.describe() for name, model in self.models.items()})
        for name, model in self.models.items():
            self.metrics.in_progress.labels(name).set_function(model.worker.requests)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the threads of all models."""
        for model in self.models.values():
            model.worker.start()
        try:
            yield
        finally:
            for model in self.models.values():
                model.worker.stop()

    def fail_all(self) -> None:
        """Refuse new requests, and end those in progress by an error. Called on the event loop."""
        for model in self.models.values():
            model.worker.fail_all()

    def add_routes(self, app: FastAPI) -> None:
        """Add all routes to the application."""
        app.post("/v1/completions", response_model=Completion, responses=STREAM)(self.create_completion)
        app.get("/v1/models", response_model=ModelList)(self.list_models)
        app.get("/v1/models/{model:path}", response_model=Model)(self.get_model)
        app.get("/health", response_model=Health)(self.health)
        app.get("/metrics", response_model=None, response_class=Response, responses=TEXT)(self.get_metrics)
        for path, page in (("/", self.front), ("/docs", self.docs)):
            app.get(path, response_class=HTMLResponse, include_in_schema=False)(page)
        for path, message in (("/v1/chat/completions", CHAT), ("/v1/embeddings", EMBEDDINGS)):
            app.post(path, include_in_schema=False)(_refusal(message))

    async def create_completion(self, body: Annotated[CompletionRequest, Body()], request: Request) -> Response:
        """Continue one or several prompts, with the whole answer at once or as a stream of server-sent events."""
        began = time.monotonic()
        model = self._find(body.model)
        if len(await request.body()) > LONG_BODY_BYTES:
            job = await asyncio.to_thread(model.planner.plan, body)
        else:
            job = model.planner.plan(body)
        stream = await model.worker.submit(job.requests)
        answer = Answer(model.name, job, model.tokenizer)
        running = Running(model.name, stream, answer, self.metrics, began, self.limits.seconds)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            return EventStream(running, include_usage=bool(usage))
        try:
            return await _unless_disconnected(request, running.complete())
        finally:
            running.close()

    async def list_models(self) -> ModelList:
        """All served models."""
        return ModelList(data=[model.card for model in self.models.values()])

    async def get_model(self, model: str) -> Model:
        """One served model."""
        return self._find(model).card

    async def health(self) -> Response:
        """Whether requests are answered: 200 if so, else 503. Needs no key."""
        ok = all(model.worker.alive for model in self.models.values())
        return _json(Health(status="ok" if ok else "failing").model_dump_json(), 200 if ok else 503)

    async def get_metrics(self) -> Response:
        """Counters for Prometheus."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def front(self, request: Request) -> HTMLResponse:
        """Links, and an example to copy."""
        page = front_page(list(self.models), str(request.base_url), has_key=self.has_key)
        return HTMLResponse(page, headers=PAGE_HEADERS)

    async def docs(self, request: Request) -> HTMLResponse:
        """The documentation of the API, for people."""
        return HTMLResponse(docs_page(request.app.openapi()), headers=PAGE_HEADERS)

    def _find(self, name: str | None) -> ServedModel:
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        known = ", ".join(self.models)
        if name is None:
            raise ApiError(400, f"model: is missing; served are {known}", param="model")
        if name not in self.models:
            message = f"model {schemas.shown(name)}: is not served here; served are {known}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return self.models[name]


class Running:
    """A request in progress. `close` must be called, whatever happens."""

    def __init__(
        self, model: str, stream: Stream, answer: Answer, metrics: Metrics, began: float, seconds: float
    ) -> None:
        """`began`: time.monotonic() at which the request came; `seconds`: how long it may take."""
        self._model, self._stream, self.answer, self._metrics = model, stream, answer, metrics
        self._began, self._seconds = began, seconds

    async def parts(self) -> AsyncIterator[list[Choice]]:
        """Parts of the answer, as many as have come; ApiError or GroupundError where it cannot be completed."""
        while self.answer.unfinished:
            try:
                items = await asyncio.wait_for(self._stream.next(), self._began + self._seconds - time.monotonic())
            except TimeoutError:
                raise _too_slow(self._seconds) from None
            waited = not self.answer.usage.completion_tokens
            parts = merged(self.answer.add(item.prompt, item.piece) for item in items if isinstance(item, Part))
            if waited and self.answer.usage.completion_tokens:
                self._metrics.first_token_seconds.labels(self._model).observe(time.monotonic() - self._began)
            yield parts
            if isinstance(items[-1], Exception):
                raise items[-1]

    async def complete(self) -> Response:
        """The complete answer."""
        async for parts in self.parts():
            for part in parts:
                self.answer.collect(part)
        return _json(self.answer.complete().model_dump_json())

    async def events(self, *, include_usage: bool) -> AsyncIterator[str]:
        """The answer as server-sent events; an error becomes the last one."""
        exclude = None if include_usage else {"usage"}
        try:
            async for parts in self.parts():
                shown = [part for part in parts if part.text or part.logprobs or part.finish_reason]
                if shown:
                    yield "".join(_event(self.answer.chunk(part), exclude) for part in shown)
        except Exception as error:
            yield f"data: {_api_error_of(error).body}\n\n"
            return
        if include_usage:
            yield _event(self.answer.last_chunk())
        yield "data: [DONE]\n\n"

    def close(self) -> None:
        """Cancel what is not finished, and count."""
        if self._stream.open:
            self._stream.close()
        usage, metrics = self.answer.usage, self._metrics
        metrics.prompt_tokens.labels(self._model).inc(usage.prompt_tokens)
        metrics.generated_tokens.labels(self._model).inc(usage.completion_tokens)
        metrics.request_seconds.labels(self._model).observe(time.monotonic() - self._began)


class EventStream(StreamingResponse):
    """The answer to a request as server-sent events; ends when the client leaves or stops reading."""

    def __init__(self, running: Running, *, include_usage: bool) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # a proxy must not collect it
        super().__init__(running.events(include_usage=include_usage), headers=headers, media_type="text/event-stream")
        self._running = running

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(STALL_SECONDS):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            logger.info("a client stopped reading its answer")
        finally:
            self._running.close()


def merged(parts: Iterable[Choice]) -> list[Choice]:
    """One part for each choice: a stream that lags, or an engine that makes several tokens in a step, sends fewer."""
    found: dict[int, Choice] = {}
    for part in parts:
        if part.index in found:
            found[part.index].append(part)
        else:
            found[part.index] = part
    return list(found.values())


def _event(chunk: Completion, exclude: set[str] | None = None) -> str:
    # ASCII: some clients end a line at each of Unicode's line separators.
    return f"data: {chunk.model_dump_json(exclude=exclude, ensure_ascii=True)}\n\n"


def _json(content: str, status: int = 200) -> Response:
    return Response(content, status, media_type="application/json")


async def _unless_disconnected(request: Request, work: Awaitable[Response]) -> Response:
    """The result of `work`, which is cancelled when the client leaves."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else Response(status_code=CLIENT_LEFT)
    finally:
        for task in tasks:
            task.cancel()


def _refusal(message: str) -> Callable[[], Awaitable[None]]:
    async def refuse() -> None:
        raise ApiError(404, message, code="not_supported")

    return refuse


def _too_slow(seconds: float) -> ApiError:
    return ApiError(
        504,
        f"the answer took longer than {seconds:g} seconds, and was ended; ask for fewer tokens",
        code="time_limit_exceeded",
        headers={"x-should-retry": "false"},
    )


def _api_error_of(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, GroundupError):  # found by the engine
        return ApiError(400, str(error))
    if isinstance(error, RequestValidationError):
        return schemas.describe(error.errors())
    logger.error("a request failed", exc_info=error)
    return failed()


async def _on_error(request: Request, error: Exception) -> Response:
    return error_response(_api_error_of(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    methods = (error.headers or {}).get("Allow")
    words = {
        400: "the body cannot be read as JSON; send an object, with the header Content-Type: application/json",
        404: f"{request.url.path}: there is no such route; /docs lists all",
        405: f"{request.method} {request.url.path}: no method of this route; it has {methods}",
    }
    message = words.get(error.status_code, str(error.detail))
    return error_response(ApiError(error.status_code, message, headers=error.headers))


HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    ApiError: _on_error,
    GroundupError: _on_error,
    RequestValidationError: _on_error,
    HTTPException: _on_http_error,
    Exception: _on_error,
}
