"""What the engine adds to the model: its decode loop over the bare step, and what a shared image saves."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.core.axes import IMAGE_TOKEN
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.prompt_format import IMAGE_TAG
from owl2_jax.core.tree import Params
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.flat_batch import Pieces
from owl2_jax.inference.inputs import read_request
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.program_sizes import StepSize
from owl2_jax.inference.programs import prepare
from owl2_jax.inference.request import Request
from owl2_jax.model import paged_kernels
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import Owl2, init_params
from owl2_jax.model.pages import PagedBatch, Pages, empty_pages
from owl2_jax.sampling import sampler

Array = jax.Array

QUESTIONS: Final = (
    "What is this?", "What color is it?", "Is there a dog?", "How many people are there?",
    "What is on the left?", "Is it day or night?", "What does the sign say?", "Who is this?",
)  # fmt: skip


def time_engine(config: Owl2Config, prompt: int, tokens: int, calls: int) -> dict[str, Any]:
    """Times the engine at batch 1 with random weights.

    Args:
      prompt: positions of the prompt whose answer is timed, an image included.
      tokens: timed tokens of each answer.
      calls: answers; engine and bare step take turns, so that both meet the same machine.

    Raises:
      Owl2Error: prompt and answer do not fit into the model.
    """
    # Three decode calls of the engine come before the timed ones.
    new_tokens = tokens + 3 * EngineConfig.decode_steps + 1
    if prompt + new_tokens > config.decoder.max_length:
        raise Owl2Error(
            f"a prompt of {prompt} and {new_tokens} tokens are more than decoder.max_length "
            f"{config.decoder.max_length}; shorten --length or --tokens"
        )
    model = _model(config)
    request = _prompt_of(model, prompt, new_tokens)
    engine = Engine(model, EngineConfig(sequences=1))
    bare = _bare(engine, request, tokens)
    pairs = np.array([(_answer(engine, request), bare()) for _ in range(calls + 1)])[1:]
    whole, step = np.median(pairs, axis=0)
    return {
        "what": "engine",
        "dtype": config.dtype,
        "prompt": prompt,
        "tokens": tokens,
        "seconds_per_token_engine": whole,
        "seconds_per_token_bare_step": step,
        "overhead": float(np.median(pairs[:, 0] / pairs[:, 1])) - 1.0,
        "overhead_of_the_fastest": pairs[:, 0].min() / pairs[:, 1].min() - 1.0,
        **_shared_image(model, calls),
    }


def _model(config: Owl2Config) -> LoadedModel:
    from owl2_jax.perf.vocabulary import tokenizer_of_size

    params = init_params(config, jax.random.key(0))
    return LoadedModel(config, params, tokenizer_of_size(config.decoder.vocab_size))


def _image(model: LoadedModel, grey: int = 0) -> np.ndarray:
    return np.full((model.config.vision.image_size,) * 2 + (3,), grey, np.uint8)


def _prompt_of(model: LoadedModel, positions: int, new_tokens: int) -> Request:
    """An image and as much text as makes `positions`, answered to the full length."""
    text = positions - model.config.tokens_per_image
    letter = model.tokenizer.encode("a")[-1]
    ids = np.array([letter, IMAGE_TOKEN, *[letter] * (text - 1)], np.int32)
    return Request(ids, [_image(model)], max_new_tokens=new_tokens, min_new_tokens=new_tokens)


def _answer(engine: Engine, request: Request) -> float:
    """Seconds per token of the engine's loop, from its second decode call on."""
    request_id = engine.submit(request)
    engine.step()
    engine.step()
    before = len(engine.tokens_of(request_id))
    start = time.perf_counter()
    while engine.pending:
        events = engine.step()
    seconds = time.perf_counter() - start
    return seconds / (len(events[-1].result.token_ids) - before)


def _bare(engine: Engine, request: Request, tokens: int) -> Callable[[], float]:
    """A function that times the jitted step by itself, at the same length; seconds per token."""
    model, size = engine.model, engine.config.page_size
    owl, params = prepare(model)
    length = len(read_request(request, model))
    table = np.arange(-(-(length + tokens + 1) // size), dtype=np.int32)[None]
    layout = paged_kernels.layout(jax.default_backend(), model.config.decoder.head_dim, size)
    pages = empty_pages(model.config, table.size, size, layout)
    step = jax.jit(functools.partial(_step, owl), donate_argnums=2)
    nowhere, prompts = np.full(1, -1, np.int32), np.array([length])

    def run() -> float:
        now, held = jnp.zeros(1, jnp.int32), jax.tree.map(jnp.copy, pages)
        begin = 0.0
        for number in range(tokens + 1):
            if number == 1:  # the first may compile
                jax.block_until_ready(now)
                begin = time.perf_counter()
            start = np.array([length + number])
            batch = Pieces(start, start + 1, nowhere, None, prompts).batch(StepSize(1, 1), table)
            now, held = step(params, now, held, engine.features.array, nowhere, batch)
        jax.block_until_ready(now)
        return (time.perf_counter() - begin) / tokens

    return run


def _step(
    owl: Owl2, params: Params, token: Array, pages: Pages, pool: Array, nowhere: Array, batch: PagedBatch
) -> tuple[Array, Pages]:
    """One greedy token int32[1] after another; nothing but the model."""
    hidden, pages = owl.apply({"params": params}, token, pool, nowhere, pages, batch, method="step")
    logits = owl.apply({"params": params}, hidden, method="logits")
    return sampler.likeliest(logits), pages


def _shared_image(model: LoadedModel, calls: int) -> dict[str, Any]:
    """Seconds to the first token of one question on a new image, and of all `QUESTIONS` on one."""
    engine = Engine(model, EngineConfig(sequences=len(QUESTIONS)))
    seconds = np.empty((calls + 1, 3))
    for call in range(calls + 1):
        image = _image(model, call % 256)
        asked = [_question(text, image) for text in QUESTIONS]
        for column, batches in enumerate(([asked[:1]], [asked], [[one] for one in asked])):
            engine.forget()
            seconds[call, column] = _first_tokens(engine, batches)
    one, together, in_turn = np.median(seconds[1:], axis=0)
    return {
        "questions_on_one_image": len(QUESTIONS),
        "seconds_of_one_question": one,
        "seconds_of_all_together": together,
        "seconds_of_all_in_turn": in_turn,
        "cost_together": together / one,
        "cost_in_turn": in_turn / one,
    }


def _question(text: str, image: np.ndarray) -> Request:
    return Request([{"role": "user", "content": f"{IMAGE_TAG}{text}"}], [image], max_new_tokens=1)


def _first_tokens(engine: Engine, batches: Sequence[Sequence[Request]]) -> float:
    start = time.perf_counter()
    for batch in batches:
        list(engine.generate(batch))
    return time.perf_counter() - start
