"""The HTTP interface: OpenAI's completions, health, metrics, and the chat page.

POST /v1/chat/completions   answers to a conversation, whole or as a stream
POST /v1/completions        texts that go on with prompts
POST /v1/attention          where the model looked while it gave an answer (the page's)
GET  /v1/models             the one model that is served
GET  /healthz               200 when ready; /healthz/live, /healthz/ready
GET  /metrics               Prometheus
GET  /                      the chat page
"""

from __future__ import annotations

import contextlib
import hmac
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from owl2_jax.data.images import FORMATS
from owl2_jax.serving.body import ClientDisconnect
from owl2_jax.serving.calls import Call
from owl2_jax.serving.choices import Choices
from owl2_jax.serving.completions import Completion, Writer
from owl2_jax.serving.errors import ApiError, install_handlers
from owl2_jax.serving.examples import EXAMPLES
from owl2_jax.serving.metrics import CONTENT_TYPE
from owl2_jax.serving.middleware import CountAndProtect
from owl2_jax.serving.page_files import PageFiles, index
from owl2_jax.serving.replies import AnswerStream, whole_answers
from owl2_jax.serving.runner import EngineRunner
from owl2_jax.serving.service import Service
from owl2_jax.serving.text_completions import TextCompletion

_GONE = 499  # nobody reads it; for the metrics


def create_app(service: Service) -> FastAPI:
    """The application of one service; the service's threads live as long as it runs."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.runner.start()
        yield
        service.close()

    # FastAPI's own documentation pages load scripts from elsewhere.
    app = FastAPI(title="owl2_jax", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    app.state.started = int(time.time())
    app.include_router(_v1)
    app.include_router(_open)
    app.mount("/page", PageFiles())
    install_handlers(app)
    app.add_middleware(CountAndProtect, metrics=service.metrics)
    return app


def _service(request: Request) -> Service:
    return request.app.state.service


async def check_key(request: Request) -> None:  # not async, each request would wait for a thread
    """Raises `ApiError` 401 unless the request shows the key that the server wants."""
    wanted = _service(request).config.api_key
    if wanted is None:
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), wanted.strip().encode()):
        raise ApiError(
            "the API key is missing or wrong; send 'Authorization: Bearer KEY'",
            401,
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


_v1 = APIRouter(prefix="/v1", dependencies=[Depends(check_key)])
_open = APIRouter()


@_v1.post("/chat/completions")
async def chat_completions(request: Request) -> Response:
    """An answer to a conversation, as OpenAI's API gives it.

    Messages are fitted to the turns that the templates know (`data.turns`):

    - Roles may come in any order. What follows in one role is one turn; a system or
      developer message is part of the user's turn where it stands; the assistant may
      speak first; an assistant's content may be null, empty or missing. The user,
      or the system, must speak last.
    - A content is a text or a list of parts, `text` and `image_url`, in any order.
      Ollama's `images` of a message are read, too, and seen in front of its text.
    - `<s>`, `</s>`, `<unk>` and other pieces that somebody writes are text. So are
      image tags of the assistant and the system; in a user's message, where a
      image may have been meant, they are refused.
    - Tool calls, audio, unknown keys and two names of one role are refused by name:
      nothing that is sent goes unseen.

    Fields are read (`fields.READ`), of no effect (`fields.UNUSED`), or fixed to what
    changes nothing (`fields.FIXED`); null is as if left out, for any of them.
    `max_tokens` beyond the context is as much as there is room for, and the answer
    then ends with the reason `length`. `stream_options` may ask for token counts with
    every piece (`continuous_usage_stats`).

    Raises:
      ApiError: 4xx with the field at fault as `param`; 429 and 503 with `Retry-After`.
    """
    service = _service(request)
    try:
        call = service.read_call(await service.bodies.read_json(request))
    except ClientDisconnect:
        return Response(status_code=_GONE)
    choices = await service.start_chat(call)
    return await _reply(request, call, choices, Completion(call, service.name, service.model.tokenizer))


@_v1.post("/completions")
async def text_completions(request: Request) -> Response:
    """Texts that go on with prompts, as OpenAI's older interface gives them.

    A prompt is a text or token ids, or several of either; `n` answers to each stand in the
    order of the prompts. A text is tokenized as it stands, `<s>` in front of it, and what is
    written in it never becomes a control id. A space in front of an answer's first word is part
    of its text, so that prompt and text read on. Fields are those of `text_calls.READ`.

    Raises:
      ApiError: as for a chat completion.
    """
    service = _service(request)
    try:
        call = service.read_text_call(await service.bodies.read_json(request))
    except ClientDisconnect:
        return Response(status_code=_GONE)
    choices, prompts = await service.start_texts(call)
    writer = TextCompletion(call, service.name, service.model.tokenizer, prompts)
    return await _reply(request, call, choices, writer)


async def _reply(request: Request, call: Call, choices: Choices, writer: Writer) -> Response:
    if call.stream:
        return AnswerStream(choices, writer)
    results = await whole_answers(choices, request.receive)
    return Response(status_code=_GONE) if results is None else JSONResponse(writer.whole(results))


@_v1.post("/attention")
async def attention(request: Request) -> Response:
    """`/v1/attention`: where the model looked while it answered."""
    service = _service(request)
    try:
        looks = await service.look(await service.bodies.read_json(request))
    except ClientDisconnect:
        return Response(status_code=_GONE)
    images = [{"share": look.share, "weights": look.weights.tolist()} for look in looks]
    return JSONResponse(
        {"object": "attention", "image_mode": service.model.prompt_format.image_mode, "images": images}
    )


@_v1.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """`/v1/models`."""
    return {"object": "list", "data": [_model_object(request)]}


@_v1.get("/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """`/v1/models/NAME`."""
    _service(request).check_name(name)
    return _model_object(request)


def _model_object(request: Request) -> dict[str, Any]:
    service, limits = _service(request), _service(request).config.limits
    return {
        "id": service.name,
        "object": "model",
        "created": request.app.state.started,
        "owned_by": "owl2_jax",
        "max_model_len": service.model.config.decoder.max_length,
        "max_images": limits.images,
        "max_body_bytes": limits.body_bytes,
        "max_pixels": limits.pixels,
        "image_formats": FORMATS,
        "examples": EXAMPLES,
    }


@_open.get("/healthz")
@_open.get("/healthz/ready")
async def ready(request: Request) -> JSONResponse:
    """Whether requests should be sent here."""
    runner = _service(request).runner
    return JSONResponse(_health(runner), 200 if runner.ready else 503)


@_open.get("/healthz/live")
async def live(request: Request) -> JSONResponse:
    """Whether the process is of any use."""
    runner = _service(request).runner
    return JSONResponse(_health(runner), 200 if runner.live else 503)


def _health(runner: EngineRunner) -> dict[str, Any]:
    return {"live": runner.live, "ready": runner.ready, "state": runner.state}


@_open.get("/metrics")
async def metrics(request: Request) -> Response:
    """`/metrics`, as Prometheus reads it."""
    return Response(_service(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE})


@_open.get("/")
async def page() -> FileResponse:
    """The chat page."""
    return index()
