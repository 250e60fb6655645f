from __future__ import annotations

import re
from html import unescape

import numpy as np

from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.data import conversation
from owl2_jax.data.batch import Sample
from owl2_jax.data.sources.embedded import TOKENIZER
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.data.tokenizers import open_tokenizer
from owl2_jax.data_tools.check.tokens import pieces, text_html

SPAN = 5


def make_sample(question: str, answer: str) -> tuple[Sample, Tokenizer]:
    tokenizer = open_tokenizer(TOKENIZER)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    encoded = conversation.encode_dialogue(messages, PromptFormat(), tokenizer)
    whole = conversation.expand(encoded.ids, encoded.labels, SPAN)
    images = tuple(np.zeros((2, 2, 3), np.uint8) for _ in whole.image_starts)
    return Sample(whole.tokens, whole.labels, whole.image_starts, images, 0, 1), tokenizer


def test_pieces_cover_every_position_once_and_say_what_is_learnt():
    sample, tokenizer = make_sample("<|image|>What is <|image|>?", "Ein Bär 你 🦉.")
    found = list(pieces(sample, tokenizer, SPAN))
    position = 0
    for piece in found:
        assert piece.first == position
        assert piece.learnt == (sample.labels[position] != -100)
        position += SPAN if piece.image is not None else len(piece.ids)
    assert position == len(sample)
    assert [piece.image for piece in found if piece.image is not None] == [0, 1]


def test_bytes_of_a_character_are_shown_as_the_character():
    sample, tokenizer = make_sample("What?", "你\n🦉")
    shown = {piece.text: len(piece.ids) for piece in pieces(sample, tokenizer, SPAN) if piece.learnt}
    assert shown["你"] == 3
    assert shown["🦉"] == 4
    assert shown["\n"] == 1


def test_text_reads_as_it_was_written_and_cannot_break_the_page():
    nasty = "<script>alert('&amp;')</script> \"quoted\""
    html = text_html(*make_sample(nasty, "a < b"), SPAN)
    assert "<script" not in html
    text = unescape(re.sub(r"<[^>]*>", "", html))
    assert nasty in text
    assert text.endswith("a < b</s>")


def test_hovering_gives_ids_and_positions():
    sample, tokenizer = make_sample("<|image|>What?", "yes")
    html = text_html(sample, tokenizer, SPAN)
    start = int(sample.image_starts[0])
    assert f'title="positions {start} to {start + SPAN - 1}: image 1"' in html
    last = len(sample) - 1
    assert f'class="t on special" title="position {last}: id 2, learnt"' in html
