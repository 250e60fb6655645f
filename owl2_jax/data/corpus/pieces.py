"""Trains the SentencePiece model of the corpus."""

from __future__ import annotations

import io
from collections.abc import Iterable

VOCAB_SIZE = 4096
ROLE_WORDS = "USER: {} ASSISTANT: {}"


def train_pieces(dialogues: Iterable[tuple[str, str]], vocab_size: int = VOCAB_SIZE) -> bytes:
    """Trains a BPE model on (question, answer) pairs; returns the model file.

    The settings are those of LLaMA's tokenizer: byte fallback, unk/bos/eos =
    0/1/2, no normalisation, a dummy prefix, single digits. One thread and no
    shuffling make the file a function of the text alone.
    """
    import sentencepiece

    sentences = []
    for question, answer in dialogues:
        sentences += ROLE_WORDS.format(question, answer).splitlines()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=1.0,
        shuffle_input_sentence=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
