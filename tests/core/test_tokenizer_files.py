from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tokenizer_files import SPECIAL_TOKENS, file_name, read_ranks
from tests.data.vocabularies import small_ranks


def test_a_file_of_ranks_is_told_by_its_first_line() -> None:
    assert file_name(small_ranks()) == "qwen.tiktoken"
    assert file_name(b"\n\x0f\n\x05<unk>\x15") == file_name(b"") == "tokenizer.model"


def test_ranks_are_read_in_order() -> None:
    ranks = read_ranks(small_ranks(), "it")
    assert list(ranks.values()) == list(range(len(ranks)))
    assert ranks[b"a"] == 97
    assert len(SPECIAL_TOKENS) == 208


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"IQ== 0\nI*== 1\n", "it line 2 is .*expected base64 and a rank"),
        (b"IQ== 0\nIg== 2\n", "it line 2 has rank 2 for .*; expected rank 1"),
        (b"IQ== 0\nIQ== 1\n", "a token that is new"),
        (b"IQ== 0\n", "it has no token for byte 0 and others"),
    ],
)
def test_damaged_files_are_refused_by_line(data: bytes, message: str) -> None:
    with pytest.raises(Owl2Error, match=message):
        read_ranks(data, "it")
