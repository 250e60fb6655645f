"""How likely given continuations of a prompt are, for multiple choice.

The prompt runs once; its cache is then handed to every option of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.core.errors import Owl2Error, errors_in_place
from owl2_jax.data.conversation import encode_text
from owl2_jax.inference import whole_prompts
from owl2_jax.inference.buckets import power_of_two
from owl2_jax.inference.inputs import Prompt, check_room, place_images, prompt_ids, read_images
from owl2_jax.inference.model_runner import ModelRunner
from owl2_jax.inference.prompt_batches import in_batches, row_counts, stack
from owl2_jax.inference.request import Request
from owl2_jax.model.cache import Cache
from owl2_jax.model.owl2 import Owl2

Array = jax.Array


@flax.struct.dataclass
class Continuations:
    """C continuations of R prompts.

    Attributes:
      tokens: int32[C, O].
      counts: int32[C], how many of the tokens are real; 0 for padding.
      owners: int32[C], the prompt of each.
    """

    tokens: Array
    counts: Array
    owners: Array


def log_likelihoods(
    owl: Owl2,
    params: Any,
    pool: Array | None,
    prompts: whole_prompts.Prompts,
    continuations: Continuations,
) -> Array:
    """Natural log-probability of each continuation after its prompt, float32[C]."""
    owners, width = continuations.owners, continuations.tokens.shape[1]
    last, cache = whole_prompts.run_prompts(owl, params, pool, prompts, prompts.tokens.shape[1] + width)
    keys, values = jax.tree.map(lambda part: part[:, owners], (cache.keys, cache.values))
    cache = Cache(keys, values, cache.lengths[owners], cache.prompt_lengths[owners])
    hidden, _ = owl.apply({"params": params}, continuations.tokens, cache, method="extend")
    # The state before each token: the prompt's last, then those of the tokens themselves.
    before = jnp.concatenate([last[owners][:, None], hidden[:, :-1]], axis=1)
    logprobs = jax.nn.log_softmax(owl.apply({"params": params}, before, method="logits"), axis=-1)
    chosen = jnp.take_along_axis(logprobs, continuations.tokens[:, :, None], axis=-1)[:, :, 0]
    real = jnp.arange(width) < continuations.counts[:, None]
    return jnp.sum(jnp.where(real, chosen, 0.0), axis=1)


_LOG_LIKELIHOODS = jax.jit(log_likelihoods, static_argnums=0)


@dataclass
class _Question:
    """A prompt without what its options do not share, and the rest of each option."""

    prompt: Prompt
    options: list[np.ndarray]


def score_options(
    runner: ModelRunner, requests: Iterable[Request], options: Iterable[Sequence[str]]
) -> Iterator[tuple[float, ...]]:
    """Scores the options of each request, in order.

    An option is tokenized together with its prompt, as in training, and scored
    from the first token in which the options (or the bare prompt) differ.

    Args:
      runner: its model and image features are used, not its pages.
      requests: what stands before the options; sampling settings do not matter.
      options: for each request, texts that may follow.

    Yields:
      For each request, the natural log-likelihood of every option.

    Raises:
      Owl2Error: a prompt or image that cannot be used; no options; an option without text.
    """
    for scores in option_answers(runner, zip(requests, options, strict=True)):
        if isinstance(scores, Owl2Error):
            raise scores
        yield scores


def option_answers(
    runner: ModelRunner, questions: Iterable[tuple[Request, Sequence[str]]]
) -> Iterator[tuple[float, ...] | Owl2Error]:
    """As `score_options`, with the error in the place of a request that cannot be scored."""
    return errors_in_place(
        questions,
        lambda question: _read(runner, *question),
        lambda read: in_batches(runner, read, lambda question: question.prompt, _score),
    )


def _read(runner: ModelRunner, request: Request, options: Sequence[str]) -> _Question:
    if not options or not all(options):
        raise Owl2Error(f"options are {list(options)!r}; expected at least one, none of them empty")
    whole = [_ids(runner, request, option) for option in options]
    shared = min(_common_length([_ids(runner, request, ""), *whole]), *(len(ids) - 1 for ids in whole))
    prompt = place_images(whole[0][:shared], runner.model)
    prompt.images = read_images(request, runner.model, len(prompt.image_starts))
    longest = max(len(ids) - shared for ids in whole)
    check_room(len(prompt), longest, runner.model.config.decoder.max_length)
    return _Question(prompt, [ids[shared:] for ids in whole])


def _ids(runner: ModelRunner, request: Request, option: str) -> np.ndarray:
    """Ids of a prompt followed by an option."""
    model, prompt, control = runner.model, request.prompt, request.control_tokens
    if isinstance(prompt, str):
        return encode_text(
            prompt + option, model.tokenizer, model.prompt_format.image_tag, control_tokens=control
        )
    ids = prompt_ids(request, model)
    if isinstance(prompt, np.ndarray):
        more = model.tokenizer.encode(option, control_tokens=control)
    else:
        text = " " + option.lstrip(" ")
        more = model.tokenizer.encode_continuation(text, control) if option else []
    return np.concatenate([ids, np.array(more, np.int32)]).astype(np.int32)


def _common_length(sequences: Sequence[np.ndarray]) -> int:
    shortest = min(map(len, sequences))
    same = np.all([ids[:shortest] == sequences[0][:shortest] for ids in sequences], axis=0)
    return int(np.argmin(np.append(same, False)))


def _score(runner: ModelRunner, questions: Sequence[_Question]) -> list[tuple[float, ...]]:
    stacked, pool = stack(runner, [question.prompt for question in questions])
    continuations = _stack([question.options for question in questions], row_counts(runner)[0])
    shapes = stacked.tokens.shape, stacked.image_index.shape, continuations.tokens.shape
    runner.used.add(("log_likelihoods", *shapes))
    with runner.on_mesh():
        values = _LOG_LIKELIHOODS(runner.owl, runner.params, pool, stacked, continuations).tolist()
    ends = np.cumsum([len(question.options) for question in questions])
    return [
        tuple(values[end - len(question.options) : end])
        for question, end in zip(questions, ends, strict=True)
    ]


def _stack(options: Sequence[Sequence[np.ndarray]], ways: int) -> Continuations:
    flat = [(ids, owner) for owner, texts in enumerate(options) for ids in texts]
    count = ways * power_of_two(max(4, -(-len(flat) // ways)))
    width = power_of_two(max(2, *(len(ids) for ids, _ in flat)))
    tokens = np.zeros((count, width), np.int32)
    counts, owners = np.zeros(count, np.int32), np.zeros(count, np.int32)
    for row, (ids, owner) in enumerate(flat):
        tokens[row, : len(ids)], counts[row], owners[row] = ids, len(ids), owner
    return Continuations(tokens, counts, owners)
