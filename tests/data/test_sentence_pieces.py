from __future__ import annotations

import contextlib
import json
import pickle
import random
from pathlib import Path

import pytest

from owl2_jax.data.sentence_pieces import train_tokenizer
from owl2_jax.data.tokenizer import Tokenizer, TokenizerError
from owl2_jax.data.tokenizers import open_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
TEXTS = json.loads((GOLDEN / "text.json").read_text(encoding="utf-8"))
LINES = [f"What is the colour of shape {i}?\nIt is green, naïve café {i * 7}." for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(GOLDEN / "tokenizer.model")


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = tokenizer.stream()
    return [*(decoder.feed(i) for i in ids), decoder.finish()]


def random_ids(rng: random.Random, tokenizer: Tokenizer) -> list[int]:
    """Ids with many byte pieces, so that characters are often broken."""
    return [rng.choice([rng.randrange(tokenizer.vocab_size), rng.randrange(3, 259)]) for _ in range(12)]


@pytest.mark.parametrize(
    "case", [c for c in TEXTS["encode"] if "tokenizer_legacy" in c], ids=lambda c: repr(c["prompt"])
)
def test_encode_gives_the_golden_legacy_ids(tokenizer, case):
    assert tokenizer.encode(case["prompt"], bos=True) == case["tokenizer_legacy"]
    assert tokenizer.encode(case["prompt"]) == case["tokenizer_legacy"][1:]


@pytest.mark.parametrize("case", TEXTS["decode"], ids=lambda c: repr(c["text"]))
def test_decode_gives_the_golden_texts(tokenizer, case):
    assert tokenizer.encode(case["text"], bos=True) == case["ids"]
    assert tokenizer.decode(case["ids"]) == case["decode_skip_special"]
    assert tokenizer.decode(case["ids"], skip_special=False) == case["decode"]
    assert tokenizer.decode(case["ids"][2:]) == case["tail2"]


def test_a_tokenizer_from_bytes_equals_the_one_from_the_file(tokenizer):
    again = open_tokenizer(tokenizer.bytes)
    assert again.encode("naïve 😀") == tokenizer.encode("naïve 😀")
    assert (again.unk_id, again.bos_id, again.eos_id, len(again)) == (0, 1, 2, 512)


def test_a_tokenizer_survives_pickling_for_worker_processes(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.bytes == tokenizer.bytes
    assert again.encode("a</s>b") == tokenizer.encode("a</s>b")


@pytest.mark.parametrize("head", ["ASSISTANT:", "one two", "x\n"])
@pytest.mark.parametrize("tail", [" yes", "  two  spaces ", " ", " </s>x", " 😀", " <unk>"])
def test_a_continuation_gives_the_ids_of_the_whole_text(tokenizer, head, tail):
    assert tokenizer.encode(head) + tokenizer.encode_continuation(tail) == tokenizer.encode(head + tail)


@pytest.mark.parametrize("text", ["</s>", "a</s>b", "<s><unk>", " </s>x"])
def test_control_tokens_are_spelt_out_where_they_are_text(tokenizer, text):
    ids = tokenizer.encode(text, bos=True, control_tokens=False)
    assert ids[0] == tokenizer.bos_id
    assert not any(tokenizer.is_special(i) for i in ids[1:])
    assert tokenizer.decode(ids[1:]) == text


@pytest.mark.parametrize("tail", [" yes", "  two  spaces ", " ", " </s>x", " <unk>"])
def test_a_continuation_of_text_without_control_tokens_gives_the_ids_of_the_whole(tokenizer, tail):
    whole = tokenizer.encode("one two" + tail, control_tokens=False)
    assert tokenizer.encode("one two") + tokenizer.encode_continuation(tail, control_tokens=False) == whole


def test_control_tokens_of_a_text_are_listed_in_order(tokenizer):
    assert tokenizer.control_tokens("a</s>b<s> <unk></s>") == ["</s>", "<s>", "<unk>", "</s>"]
    assert tokenizer.control_tokens("a < s > b") == []


def test_a_continuation_without_a_space_is_refused(tokenizer):
    with pytest.raises(ValueError, match="starts with a space"):
        tokenizer.encode_continuation("yes")


def test_decoding_inverts_encoding_for_any_text_without_special_tokens(tokenizer):
    rng = random.Random(0)
    alphabet = "ab  \n\t.,é你😀ß0"
    for _ in range(300):
        text = "".join(rng.choices(alphabet, k=rng.randrange(20)))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_streamed_text_equals_decoding_everything_at_once(tokenizer):
    rng = random.Random(1)
    for _ in range(2000):
        ids = random_ids(rng, tokenizer)
        assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


def test_streaming_never_gives_out_part_of_a_character(tokenizer):
    pieces = stream(tokenizer, tokenizer.encode("看 😀 ok"))
    assert "".join(pieces) == "看 😀 ok"
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert "😀" in pieces


def test_streaming_takes_several_ids_at_once(tokenizer):
    decoder = tokenizer.stream()
    assert decoder.feed(tokenizer.encode("A small tree.")) + decoder.finish() == "A small tree."


def test_a_broken_character_at_the_end_becomes_replacement_characters(tokenizer):
    ids = tokenizer.encode("😀")[:-1]
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids) == "\N{REPLACEMENT CHARACTER}" * 3


@pytest.mark.parametrize("bad", [-200, -1, 512])
def test_ids_outside_the_vocabulary_are_named(tokenizer, bad):
    with pytest.raises(TokenizerError, match=f"token id {bad} .* 0 .. 511"):
        tokenizer.decode([5, bad])
    with pytest.raises(TokenizerError, match=f"token id {bad}"):
        tokenizer.stream().feed(bad)


def test_text_without_a_utf8_form_is_refused(tokenizer):
    with pytest.raises(TokenizerError, match="UTF-8"):
        tokenizer.encode("half a pair \ud83d")


def test_another_vocabulary_size_than_the_models_is_refused(tokenizer):
    tokenizer.require_size(512)
    with pytest.raises(TokenizerError, match=r"512 pieces, the model 32000 embeddings"):
        tokenizer.require_size(32000)


def test_a_missing_tokenizer_file_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"no_such\.model: No such file"):
        open_tokenizer(tmp_path / "no_such.model")


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, tokenizer):
    path = tmp_path / "tokenizer.model"
    for content in (b"", b"not a model", tokenizer.bytes[: len(tokenizer.bytes) // 2 + 1]):
        path.write_bytes(content)
        with pytest.raises(TokenizerError, match="no SentencePiece model"):
            open_tokenizer(path)


def test_mutated_tokenizer_files_never_raise_anything_else(tokenizer):
    rng = random.Random(2)
    for _ in range(200):
        model = bytearray(tokenizer.bytes)
        for _ in range(5):
            model[rng.randrange(len(model))] = rng.randrange(256)
        with contextlib.suppress(TokenizerError):
            open_tokenizer(bytes(model)).encode("hello")


def test_training_is_byte_identical_and_has_llamas_layout():
    model = train_tokenizer(LINES, 340)
    assert model == train_tokenizer(LINES, 340)
    tokenizer = open_tokenizer(model)
    assert (tokenizer.vocab_size, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (340, 0, 1, 2)
    assert [tokenizer.piece(i) for i in (0, 1, 2, 3, 258)] == ["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]


def test_a_trained_tokenizer_keeps_any_text_and_has_newlines_as_bytes():
    tokenizer = open_tokenizer(train_tokenizer(LINES, 340))
    text = "  It is\n green 你好 😀 1234 "
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert 3 + ord("\n") in ids
    assert tokenizer.encode("What")[0] == tokenizer.encode("a</s>What")[-len(tokenizer.encode("What"))]
    assert tokenizer.unk_id not in ids


def test_training_reads_lines_of_any_length():
    long_line = "zebra quokka " * 1000
    pieces = open_tokenizer(train_tokenizer([long_line], 280)).encode("zebra quokka")
    assert len(pieces) < len("zebra quokka")


@pytest.mark.parametrize(
    ("lines", "size", "message"),
    [
        (LINES, 5000, "5000 pieces: Vocabulary size too high"),
        (LINES, 100, "smaller than required"),
        (["", " \n"], 300, "no text"),
        (["\ud800"], 300, "surrogates"),
    ],
)
def test_training_that_cannot_work_says_why(lines, size, message):
    with pytest.raises(TokenizerError, match=message):
        train_tokenizer(lines, size)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (LFS, "git-lfs pointer"),
        (b"<!DOCTYPE html>", "web page"),
    ],
)
def test_what_a_tokenizer_file_is_instead_is_named(tmp_path, data, words):
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(TokenizerError, match=rf"tokenizer\.model .*{words}"):
        open_tokenizer(tmp_path / "tokenizer.model")
