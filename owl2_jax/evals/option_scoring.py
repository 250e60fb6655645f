"""How likely given continuations of a prompt are, for multiple choice.

Every option runs as the end of a prompt of its own, of which the engine tells the
log-probabilities; what the prompts of a question have in common lies in shared pages.
The first options of several questions go first, so that the others find these pages filled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from owl2_jax.core.errors import Owl2Error, errors_in_place
from owl2_jax.data.conversation import encode_text
from owl2_jax.inference.engine import Engine
from owl2_jax.inference.inputs import place_images, prompt_ids, read_images
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.request import Request


def score_options(
    engine: Engine, requests: Iterable[Request], options: Iterable[Sequence[str]]
) -> Iterator[tuple[float, ...]]:
    """Scores the options of each request, in order.

    An option is tokenized together with its prompt, as in training, and scored
    from the first token in which the options (or the bare prompt) differ.

    Args:
      engine: nothing else runs in it meanwhile.
      requests: what stands before the options; sampling settings do not matter.
      options: for each request, texts that may follow.

    Yields:
      For each request, the natural log-likelihood of every option.

    Raises:
      Owl2Error: a prompt or image that cannot be used; no options; an option without text,
        or of one token behind nothing.
    """
    for scores in option_answers(engine, zip(requests, options, strict=True)):
        if isinstance(scores, Owl2Error):
            raise scores
        yield scores


def option_answers(
    engine: Engine, questions: Iterable[tuple[Request, Sequence[str]]]
) -> Iterator[tuple[float, ...] | Owl2Error]:
    """As `score_options`, with the error in the place of a request that cannot be scored."""
    return errors_in_place(
        questions, lambda question: _read(engine.model, *question), lambda read: _score(engine, read)
    )


def _read(model: LoadedModel, request: Request, options: Sequence[str]) -> list[Request]:
    """A request for each option that asks for nothing but log-probabilities."""
    if not options or not all(options):
        raise Owl2Error(f"options are {list(options)!r}; expected at least one, none of them empty")
    bare = None if isinstance(request.prompt, str) else prompt_ids(request, model)
    whole = [_ids(model, request, option, bare) for option in options]
    for option, ids in zip(options, whole, strict=True):
        if len(ids) == 1:
            raise Owl2Error(
                f"the option {option!r} is one token and nothing stands before it, so it has no probability; "
                "give a prompt"
            )
    shared = min(_common_length([_ids(model, request, "", bare), *whole]), *(len(ids) - 1 for ids in whole))
    images = read_images(request, model, len(place_images(whole[0], model).image_starts))
    return [Request(ids, images, max_new_tokens=0, prompt_logprobs=len(ids) - shared) for ids in whole]


def _ids(model: LoadedModel, request: Request, option: str, bare: np.ndarray | None = None) -> np.ndarray:
    """Ids of a prompt followed by an option; `bare` are those of a prompt that is no text, where known."""
    prompt, control = request.prompt, request.control_tokens
    if isinstance(prompt, str):
        tag = model.prompt_format.image_tag
        return encode_text(prompt + option, model.tokenizer, tag, control_tokens=control)
    bare = prompt_ids(request, model) if bare is None else bare
    if isinstance(prompt, np.ndarray):
        more = model.tokenizer.encode(option, control_tokens=control)
    else:
        text = " " + option.lstrip(" ")
        more = model.tokenizer.encode_continuation(text, control) if option else []
    return np.concatenate([bare, np.array(more, np.int32)]).astype(np.int32)


def _common_length(sequences: Sequence[np.ndarray]) -> int:
    shortest = min(map(len, sequences))
    same = np.all([ids[:shortest] == sequences[0][:shortest] for ids in sequences], axis=0)
    return int(np.argmin(np.append(same, False)))


def _score(engine: Engine, questions: Iterator[list[Request]]) -> Iterator[tuple[float, ...] | Owl2Error]:
    groups: deque[list[int]] = deque()  # numbers of options
    size = -(-engine.config.sequences // 2)

    def requests() -> Iterator[Request]:
        while group := list(islice(questions, size)):
            groups.append([len(options) for options in group])
            # By the time that the others begin, the first have filled the pages that they share.
            yield from (options[0] for options in group)
            yield from (option for options in group for option in options[1:])

    answers = engine.answers(requests())
    for answer in answers:
        group = groups.popleft()
        firsts = [answer, *islice(answers, len(group) - 1)]
        for first, count in zip(firsts, group, strict=True):
            found = [first, *islice(answers, count - 1)]
            errors = [one for one in found if isinstance(one, Owl2Error)]
            yield errors[0] if errors else tuple(sum(one.prompt_logprobs.logprobs) for one in found)
