"""How a request chooses its tokens; the choice itself is made on the device, by `sampler`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import check_values
from owl2_jax.core.ranges import NotNegative, PartKept, Positive, SampleSeed, Share, Whole, between

MAX_BIAS: Final = 300  # tokens with a bias
MAX_CHOICES: Final = 8  # answers to one prompt

Penalty = Annotated[float, between(-2, 2)]
Bias = Annotated[float, between(-100, 100)]
Choices = Annotated[int, between(1, MAX_CHOICES)]


@dataclass(frozen=True)
class Sampling:
    """How a request chooses its tokens.

    The order of the rules is: the tokens that structured output allows, bias, penalties
    for repetition, frequency and presence, temperature, top-k, top-p over what is left, min-p.
    All before the temperature act on greedy choice too.

    Attributes:
      temperature: 0 takes the most likely token (greedy).
      top_k: keep the k most likely tokens; 0 keeps all.
      top_p: keep the smallest set of most likely tokens whose probability
        reaches top_p (Holtzman et al. 2020); 1 keeps all.
      min_p: keep tokens at least min_p times as likely as the most likely one;
        0 keeps all.
      repetition_penalty: divides the logit of a token that stands in the prompt
        or the answer, when positive, and multiplies it when negative (Keskar et
        al. 2019); 1 changes nothing.
      presence_penalty: taken from the logit of a token that stands in the answer; 0 changes nothing.
      frequency_penalty: taken from it as many times as the token stands in the answer; 0 changes nothing.
      logit_bias: token id, written in digits, to what is added to its logit; 0 adds nothing.
      seed: of the request's own random stream.

    Raises:
      Owl2Error: a value out of its range.
    """

    temperature: NotNegative = 0.0
    top_k: Whole = 0
    top_p: PartKept = 1.0
    min_p: Share = 0.0
    repetition_penalty: Positive = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Mapping[str, Bias] = field(default_factory=dict)
    seed: SampleSeed = 0

    def __post_init__(self) -> None:
        check_values(self, "")
        if len(self.logit_bias) > MAX_BIAS:
            raise Owl2Error(f"logit_bias has {len(self.logit_bias)} tokens; expected at most {MAX_BIAS}")
        for name in self.logit_bias:
            if not is_token_id(name):
                raise Owl2Error(f"logit_bias: {name[:40]!r} is no token id; expected digits, as '29871'")

    @property
    def plain(self) -> bool:
        """Whether the choice is simply the largest logit."""
        return self.temperature == 0 and not self.penalized and not self.logit_bias

    @property
    def penalized(self) -> bool:
        """Whether the choice depends on the tokens so far."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    def check_tokens(self, vocab_size: int) -> None:
        """Raises `Owl2Error` for a bias on an id that the tokenizer does not have."""
        check_token_ids("logit_bias", map(int, self.logit_bias), vocab_size)

    def of_choice(self, number: int) -> Sampling:
        """The settings of one of several answers to a prompt: a random stream of its own.

        The first has the stream of a single answer.
        """
        return self if number == 0 else replace(self, seed=_mixed(self.seed, number))


GREEDY: Final = Sampling()


def is_token_id(text: str) -> bool:
    """Whether a text is a token id in digits, none of them to spare."""
    return text.isascii() and text.isdecimal() and len(text) < 10 and str(int(text)) == text


def check_token_ids(name: str, ids: Sequence[int] | map[int], vocab_size: int) -> None:
    """Raises `Owl2Error` for an id that the tokenizer does not have; `name` is the setting."""
    for token in ids:
        if not 0 <= token < vocab_size:
            raise Owl2Error(
                f"{name} names the token {token}; the tokenizer has the ids 0 to {vocab_size - 1}"
            )


def _mixed(seed: int, number: int) -> int:
    """A seed of 63 bits; near seeds and numbers give ones far apart (the mixer of SplitMix64)."""
    value = (seed + number * 0x9E3779B97F4A7C15) & (2**64 - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1
