"""The sampler on the device: what a step gives it for each row, and what it gives back.

    host    Sampling (of a request) -> SamplerRows (numpy, a row per running sequence)
                                            |  take(rows)
    step    logits f32[S, V] --sample(SamplerInputs, SamplerState)--> Chosen --count--> SamplerState

A step computes logits for S rows. S is static for a token count of the step; which
sequence stands in which row, and all settings, are data: no setting of a request
compiles anything. Work that no row asks for is skipped under `lax.cond`.

Who does what:

- `params` holds `Sampling`, the settings of one request, and imports no JAX.
- `sampler` (this file) holds what runs inside of the step program.
- `inference.sampler_rows` fills the arrays on the host, and the bit masks of structured output.
- `inference.model_runner` calls `sample` and `count` in the step program and `load_row` when a
  sequence with penalties gets a row; rows that pad a step are greedy ones.
"""

from __future__ import annotations

from typing import Final

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from owl2_jax.core import platforms
from owl2_jax.sampling.params import MAX_BIAS
from owl2_jax.sampling.truncation import truncate

__all__ = [
    "MAX_BIAS", "MAX_STOP_IDS", "MAX_TOP", "Chosen", "SamplerInputs", "SamplerState",
    "count", "empty_state", "likeliest", "load_row", "sample", "told",
]  # fmt: skip

Array = jax.Array

_ROWS_AT_A_TIME: Final = 8
_LARGE: Final = ("bias_ids", "bias", "allowed", "stop_ids")  # what drawing has no use for

MAX_STOP_IDS: Final = 16  # ids that end an answer, `</s>` among them
MAX_TOP: Final = 20  # likeliest tokens that are listed


@flax.struct.dataclass
class SamplerInputs:
    """What the S rows of a step ask for; of the host, new in every step.

    Attributes:
      rows: int32[S], where a row's penalties stand in `SamplerState`; R (past the end) for padding.
      temperature, top_p, min_p: float32[S]; temperature 0 is greedy.
      top_k: int32[S], 0 for all.
      seed: uint32[S, 2], high and low word.
      generated: int32[S], tokens of the answer so far; with the seed it fixes the random numbers.
      min_new_tokens: int32[S]; none of `stop_ids` comes before.
      repetition_penalty, presence_penalty, frequency_penalty: float32[S]; 1, 0 and 0 for none.
      stop_ids: int32[S, MAX_STOP_IDS], tokens that end the answer (`</s>` unless it is
        ignored), V (past the end) for padding.
      bias_ids: int32[S, MAX_BIAS], V for padding. bias: float32[S, MAX_BIAS], added to their logits.
      masked: bool[S], whether `allowed` says anything for the row.
      allowed: uint32[S, ceil(V / 32)], bit i % 32 of word i // 32 is set when token i may come.
      top: int32[S], how many likeliest tokens are to be listed.
    """

    rows: Array
    temperature: Array
    top_p: Array
    min_p: Array
    top_k: Array
    seed: Array
    generated: Array
    min_new_tokens: Array
    repetition_penalty: Array
    presence_penalty: Array
    frequency_penalty: Array
    stop_ids: Array
    bias_ids: Array
    bias: Array
    masked: Array
    allowed: Array
    top: Array


@flax.struct.dataclass
class SamplerState:
    """What penalties need of R rows; stays on the device and is donated to every step.

    Attributes:
      in_prompt: bool[R, V], tokens of the prompt.
      counts: int32[R, V], how often the answer has each token.
    """

    in_prompt: Array
    counts: Array


@flax.struct.dataclass
class Chosen:
    """Tokens with their log-probabilities.

    Attributes:
      tokens: int32[...].
      logprobs: float32[...], under the model: before temperature, penalties, bias, mask and truncation.
      top_tokens: int32[..., MAX_TOP], the likeliest, best first; zeros when no row asks.
      top_logprobs: float32[..., MAX_TOP].
    """

    tokens: Array
    logprobs: Array
    top_tokens: Array
    top_logprobs: Array


def empty_state(rows: int, vocab_size: int) -> SamplerState:
    """The state of R rows without a token."""
    return SamplerState(
        in_prompt=jnp.zeros((rows, vocab_size), bool), counts=jnp.zeros((rows, vocab_size), jnp.int32)
    )


def load_row(state: SamplerState, row: Array, tokens: Array, prompt_length: Array) -> SamplerState:
    """Sets the row of a sequence that has penalties, when it starts and when it starts again.

    Args:
      row: int32[].
      tokens: int32[max_length], prompt and answer; V at images and behind the end.
      prompt_length: int32[].
    """
    in_prompt = jnp.arange(tokens.shape[0]) < prompt_length
    nothing = jnp.zeros(state.counts.shape[1:], jnp.int32)
    prompt = nothing.at[tokens].max(in_prompt.astype(jnp.int32), mode="drop")
    counts = nothing.at[tokens].add(jnp.where(in_prompt, 0, 1), mode="drop")
    return SamplerState(state.in_prompt.at[row].set(prompt > 0), state.counts.at[row].set(counts))


def count(state: SamplerState, inputs: SamplerInputs, tokens: Array, active: Array) -> SamplerState:
    """Adds chosen tokens int32[S] to the counts of the rows that are active, bool[S].

    Nothing is written when no row has a penalty.
    """
    penalized = _penalized(inputs)

    def add(counts: Array) -> Array:
        return counts.at[inputs.rows, tokens].add((active & penalized).astype(jnp.int32), mode="drop")

    return state.replace(counts=lax.cond(jnp.any(penalized), add, lambda counts: counts, state.counts))


def sample(logits: Array, inputs: SamplerInputs, state: SamplerState) -> Chosen:
    """Chooses one token per row; a row's choice depends on nothing but its own row.

    Args:
      logits: float32[S, V], -inf for ids that the tokenizer does not have.
      inputs: of S rows.
      state: of all R rows; row i of the step is row `inputs.rows[i]` there.
    """
    allowed = lax.cond(jnp.any(_early(inputs)), _without_end, lambda logits, _: logits, logits, inputs)
    normalizer = jax.nn.logsumexp(logits, axis=-1)  # of the model: what may not come yet counts too
    shaped = _shaped(allowed, inputs, state)
    tokens = lax.cond(
        jnp.any(inputs.temperature > 0), _drawn, lambda logits, _: likeliest(logits), shaped, inputs
    )
    return told(logits, tokens, inputs.top, normalizer)


def told(logits: Array, tokens: Array, tops: Array, normalizer: Array | None = None) -> Chosen:
    """Tokens int32[S] with their log-probabilities, and the likeliest in their places.

    Args:
      logits: float32[S, V].
      tokens: int32[S].
      tops: int32[...], how many likeliest tokens rows ask for; with 0 everywhere there are none.
      normalizer: float32[S], of the logits, where it is known already.
    """
    normalizer = jax.nn.logsumexp(logits, axis=-1) if normalizer is None else normalizer
    logprobs = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0] - normalizer
    best, best_tokens = lax.cond(jnp.any(tops > 0), _best, _no_best, logits)
    return Chosen(tokens, logprobs, best_tokens, best - normalizer[:, None])


def likeliest(logits: Array) -> Array:
    """The first of the largest: float32[S, V] to int32[S].

    Two plain reductions take a quarter of the time of `argmax` on a CPU.
    """
    last = logits.shape[-1] - 1
    is_largest = logits == jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(is_largest, jnp.arange(last + 1, dtype=jnp.int32), last), axis=-1)


def _early(inputs: SamplerInputs) -> Array:
    return inputs.generated < inputs.min_new_tokens


def _without_end(logits: Array, inputs: SamplerInputs) -> Array:
    """Rules out what would end an answer that is too short yet."""
    stop_ids = jnp.where(_early(inputs)[:, None], inputs.stop_ids, logits.shape[1])
    return logits.at[_every_row(logits), stop_ids].set(-jnp.inf, mode="drop")


def _shaped(logits: Array, inputs: SamplerInputs, state: SamplerState) -> Array:
    """Mask, bias and penalties; not a bit changes in the rows that ask for none of them."""
    masked, biased = jnp.any(inputs.masked), jnp.any(inputs.bias != 0)
    penalized = jnp.any(_penalized(inputs))

    def same(logits: Array, *_: object) -> Array:
        return logits

    def shape(logits: Array, inputs: SamplerInputs, state: SamplerState) -> Array:
        logits = lax.cond(masked, _mask, same, logits, inputs)
        logits = lax.cond(biased, _add_bias, same, logits, inputs)
        return lax.cond(penalized, _penalize, same, logits, inputs, state)

    # Each condition may copy the logits; a step in which nobody asks for anything has one.
    return lax.cond(masked | biased | penalized, shape, same, logits, inputs, state)


def _mask(logits: Array, inputs: SamplerInputs) -> Array:
    bits = (inputs.allowed[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    allowed = bits.reshape(len(logits), -1)[:, : logits.shape[1]] > 0
    return jnp.where(allowed | ~inputs.masked[:, None], logits, -jnp.inf)


def _add_bias(logits: Array, inputs: SamplerInputs) -> Array:
    return logits.at[_every_row(logits), inputs.bias_ids].add(inputs.bias, mode="drop")


def _penalized(inputs: SamplerInputs) -> Array:
    return (inputs.repetition_penalty != 1) | (inputs.presence_penalty != 0) | (inputs.frequency_penalty != 0)


def _penalize(logits: Array, inputs: SamplerInputs, state: SamplerState) -> Array:
    """Repetition counts prompt and answer, the other two the answer alone, as in OpenAI's API."""
    counts = state.counts.at[inputs.rows].get(mode="clip")
    seen = state.in_prompt.at[inputs.rows].get(mode="clip") | (counts > 0)
    factor = inputs.repetition_penalty[:, None]
    repeated = jnp.where(seen, jnp.where(logits > 0, logits / factor, logits * factor), logits)
    frequent = inputs.frequency_penalty[:, None] * counts
    present = inputs.presence_penalty[:, None] * (counts > 0)
    return jnp.where(_penalized(inputs)[:, None], repeated - frequent - present, logits)


def _drawn(logits: Array, inputs: SamplerInputs) -> Array:
    """int32[S], drawn; a CPU takes a few rows at a time, whose arrays stay in its caches."""
    rows = logits.shape[0]
    if platforms.current_platform() != "cpu" or rows % _ROWS_AT_A_TIME:
        return _draw(logits, inputs)
    inputs = inputs.replace(**dict.fromkeys(_LARGE))
    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, _ROWS_AT_A_TIME, *leaf.shape[1:]), (logits, inputs))
    return lax.map(lambda part: _draw(*part), parts).reshape(rows)


def _draw(logits: Array, inputs: SamplerInputs) -> Array:
    """Draws by the largest of logit and Gumbel noise; rows of temperature 0 take the likeliest."""
    warm = logits / jnp.maximum(inputs.temperature, 1e-6)[:, None]
    kept = truncate(warm, inputs.top_k, inputs.top_p, inputs.min_p)
    noise = jax.vmap(_gumbel, in_axes=(0, 0, None))(inputs.seed, inputs.generated, logits.shape[-1])
    return jnp.where(inputs.temperature > 0, likeliest(kept + noise), likeliest(logits))


def _gumbel(seed: Array, step: Array, size: int) -> Array:
    key = jax.random.wrap_key_data(seed, impl="threefry2x32")
    return jax.random.gumbel(jax.random.fold_in(key, step), (size,), jnp.float32)


def _every_row(logits: Array) -> Array:
    return jnp.arange(logits.shape[0])[:, None]


def _best(logits: Array) -> tuple[Array, Array]:
    size = min(MAX_TOP, logits.shape[1])
    best, tokens = lax.top_k(logits, size)
    more = ((0, 0), (0, MAX_TOP - size))
    return jnp.pad(best, more, constant_values=-jnp.inf), jnp.pad(tokens, more)


def _no_best(logits: Array) -> tuple[Array, Array]:
    rows = logits.shape[0]
    return jnp.zeros((rows, MAX_TOP), logits.dtype), jnp.zeros((rows, MAX_TOP), jnp.int32)
