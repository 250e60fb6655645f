"""Texts that end an answer are found by the table where they are found in the text itself."""

from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.beam_search.end_texts import end_table, transitions
from owl2_jax.data.tokenizers import open_tokenizer
from tests.data.vocabularies import qwen_file, small_ranks

PIECES = (
    b"", b"<", b"/", b"s", b">", b"</", b"s>", b"</s>", b"x</", b">y", b"\xe2", b"a", b"b", b"c", b"ab",
    b"aba",
)  # fmt: skip


@pytest.mark.parametrize("ends", [[b"</s>"], [b"abac"], [b"aab", b"ba"], [b"a", b"</s>"]])
def test_a_text_is_there_where_its_last_byte_is_written(ends: list[bytes]) -> None:
    table = transitions(ends, PIECES, len(PIECES) + 2)
    chance, found = np.random.default_rng(0), 0
    for _ in range(1500):
        state, text = 0, b""
        for token in chance.integers(0, len(PIECES) + 2, 12):
            state = table[state, token]
            text += PIECES[token] if token < len(PIECES) else b""
            there = any(end in text for end in ends)
            assert (state == len(table)) == there, text
            if there:
                found += 1
                break
    assert found > 20


def test_special_tokens_and_spare_ids_add_nothing() -> None:
    tokenizer = open_tokenizer(small_ranks())
    table = end_table(tokenizer, 520)
    assert table.shape == (4, 520)
    for token in (tokenizer.eos_id, len(tokenizer) - 1, len(tokenizer), 519):
        np.testing.assert_array_equal(table[:, token], range(4))
    np.testing.assert_array_equal(table[:, tokenizer.encode(">")[0]], [0, 0, 0, 4])


def test_a_separator_that_is_a_token_needs_no_table(toy_tokenizer) -> None:
    assert end_table(toy_tokenizer, 300) is None


def test_the_table_of_the_released_vocabulary() -> None:
    tokenizer = open_tokenizer(qwen_file())
    table = end_table(tokenizer, 151_936)
    assert table.shape == (4, 151_936)
    ends = [tokenizer.piece(i) for i in np.flatnonzero(table[3] == 4)]
    assert all(piece[0] == ">" or "</s>" in piece for piece in ends)
    assert len(ends) > 10
    for before, after in (("yes</", "s>"), ("yes</", "s>\n"), ("yes.</s", ">")):
        state = 0
        for token in [*tokenizer.encode(before), *tokenizer.encode(after)]:
            state = table[state, token]
        assert state == 4
