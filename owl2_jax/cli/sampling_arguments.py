"""Arguments that say how answers are chosen, where they end and what they look like."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.ranges import NotNegative, PartKept, Positive, SampleSeed, Share, Whole
from owl2_jax.core.text_files import read_text
from owl2_jax.core.texts import BucketPath
from owl2_jax.sampling.params import Bias, Penalty

if TYPE_CHECKING:
    from owl2_jax.sampling.params import Sampling
    from owl2_jax.structured.form import Structured


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen, for every command that answers."""
    group = parser.add_argument_group("how tokens are chosen")
    group.add_argument("--temperature", type=NotNegative, default=0.0, help="0: the likeliest (default)")
    group.add_argument("--top-k", type=Whole, default=0, help="keep the k likeliest; 0: all (default)")
    group.add_argument("--top-p", type=PartKept, default=1.0, help="keep this much probability (default: 1)")
    group.add_argument(
        "--min-p", type=Share, default=0.0,
        help="keep tokens this likely compared with the likeliest (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--repetition-penalty", type=Positive, default=1.0, help="above 1 avoids repetition (default: 1)"
    )
    group.add_argument(
        "--presence-penalty", type=Penalty, default=0.0,
        help="taken from the logits of tokens of the answer, -2 to 2 (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--frequency-penalty", type=Penalty, default=0.0,
        help="the same for each time that a token stands there (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--logit-bias", action="append", default=[], metavar="ID=NUMBER",
        help="added to the logit of a token, -100 to 100; may be given several times",
    )  # fmt: skip
    group.add_argument("--seed", type=SampleSeed, default=0, help="of the tokens that are drawn (default: 0)")


def add_end_arguments(parser: argparse.ArgumentParser) -> None:
    """Where an answer ends and what it looks like, for every command that answers."""
    group = parser.add_argument_group("where an answer ends, and what it looks like")
    group.add_argument(
        "--min-new-tokens", type=Whole, default=0, metavar="N", help="no end before so many (default: 0)"
    )
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT",
        help="ends the answer and is not part of it; may be given several times",
    )  # fmt: skip
    group.add_argument(
        "--stop-token-id", action="append", default=[], type=Whole, metavar="ID", help="the same for a token"
    )
    group.add_argument("--ignore-eos", action="store_true", help="</s> does not end the answer")
    form = group.add_mutually_exclusive_group()
    form.add_argument("--json-object", action="store_true", help="the answer is an object of JSON")
    form.add_argument(
        "--json-schema", type=BucketPath, metavar="FILE", help="the answer is JSON that fits the schema"
    )
    form.add_argument(
        "--choice", action="append", metavar="TEXT",
        help="the answer is one of the texts; give it several times",
    )  # fmt: skip
    form.add_argument("--regex", metavar="TEXT", help="the answer matches the expression as a whole")
    form.add_argument(
        "--grammar",
        type=BucketPath,
        metavar="FILE",
        help="the answer is of the grammar, in Lark's or GBNF's notation",
    )


def sampling_of(args: argparse.Namespace) -> Sampling:
    """The settings in `args`. Raises `Owl2Error` for values out of range."""
    from owl2_jax.sampling.params import Sampling

    return Sampling(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        presence_penalty=args.presence_penalty,
        frequency_penalty=args.frequency_penalty,
        logit_bias=_bias_of(args.logit_bias),
        seed=args.seed,
    )


def _bias_of(words: list[str]) -> dict[str, float]:
    from owl2_jax.core.fields import read_number

    biases: dict[str, float] = {}
    for word in words:
        token, equals, number = word.partition("=")
        if not equals:
            raise Owl2Error(f"--logit-bias {word!r} has no '='; expected ID=NUMBER, as 29871=-100")
        if token in biases:
            raise Owl2Error(f"--logit-bias names the token {token} twice; leave one out")
        biases[token] = read_number(Bias, number, f"--logit-bias {word}")
    return biases


def ends_of(args: argparse.Namespace) -> dict[str, Any]:
    """Those settings of a `Request` that `args` give: empty when none is given. Raises `Owl2Error`."""
    given = {
        "min_new_tokens": args.min_new_tokens,
        "stop": tuple(args.stop),
        "stop_token_ids": tuple(args.stop_token_id),
        "ignore_eos": args.ignore_eos,
        "structured": _form_of(args),
    }
    return {name: value for name, value in given.items() if value}


def _form_of(args: argparse.Namespace) -> Structured | None:
    from owl2_jax.structured import form

    if args.json_object:
        return form.json_object("--json-object")
    if args.json_schema is not None:
        name = f"--json-schema {args.json_schema}"
        try:
            return form.json_schema(json.loads(read_text(args.json_schema)), name)
        except ValueError as error:
            raise Owl2Error(f"{name} is not valid JSON: {error}") from None
    if args.choice is not None:
        return form.choice(args.choice, "--choice")
    if args.regex is not None:
        return form.regex(args.regex, "--regex")
    if args.grammar is not None:
        return form.grammar(read_text(args.grammar), f"--grammar {args.grammar}")
    return None
