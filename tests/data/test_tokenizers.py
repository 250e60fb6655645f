from __future__ import annotations

from pathlib import Path

import pytest

from owl2_jax.data.qwen_tokenizer import QwenTokenizer
from owl2_jax.data.sentence_pieces import SentencePieceTokenizer
from owl2_jax.data.tokenizer import TokenizerError
from owl2_jax.data.tokenizers import open_tokenizer
from tests.data.vocabularies import small_ranks

SENTENCE_PIECES = Path(__file__).parents[1] / "golden" / "text" / "tokenizer.model"


def test_the_content_says_which_kind_it_is(tmp_path: Path) -> None:
    assert isinstance(open_tokenizer(SENTENCE_PIECES), SentencePieceTokenizer)
    path = tmp_path / "any name"
    path.write_bytes(small_ranks())
    assert isinstance(open_tokenizer(path), QwenTokenizer)
    assert isinstance(open_tokenizer(small_ranks()), QwenTokenizer)


def test_both_answer_the_same_questions() -> None:
    for tokenizer in (open_tokenizer(SENTENCE_PIECES), open_tokenizer(small_ranks())):
        ids = tokenizer.encode("red", control_tokens=False)
        assert tokenizer.decode_answer(ids) == "red"
        assert b"".join(map(tokenizer.token_bytes, ids)).decode().strip() == "red"
        assert tokenizer.is_special(tokenizer.eos_id)
        stream = tokenizer.stream()
        assert stream.feed(ids) + stream.finish() == "red"


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"cannot read .* tokenizer\.model or a qwen\.tiktoken"):
        open_tokenizer(tmp_path / "none")
    with pytest.raises(TokenizerError, match=r"line 2 .*expected base64 and a rank"):
        open_tokenizer(b"IQ== 0\nhello\n")
