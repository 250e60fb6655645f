"""The tokenizer and image-processor files that stand beside released weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from owl2_jax.core import tokenizer_files
from owl2_jax.core.buckets import exists
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.paths import as_path
from owl2_jax.core.pixels import CLIP_MEAN, CLIP_STD
from owl2_jax.core.text_files import read_bytes, what_was_downloaded
from owl2_jax.core.vocabulary import check_fit

_KINDS = "tokenizer.model (the SentencePiece model) or qwen.tiktoken"
_ADVICE = f"copy {_KINDS} from where the weights come from beside them"


def read_tokenizer_file(directory: str | Path, given: str | Path | None, vocab_size: int) -> bytes | None:
    """The tokenizer: the file `given`, else the one in `directory`, else None.

    Raises:
      Owl2Error: it cannot be read, is of no known kind, or has more pieces than
        the model has embeddings, or far fewer; or `directory` has one of each kind.
    """
    there = [name for name in tokenizer_files.FILE_NAMES if exists(as_path(directory) / name)]
    if given is None and not there:
        return None
    if given is None and len(there) > 1:
        raise Owl2Error(
            f"{directory} has {' and '.join(there)}; expected one tokenizer; take one away, or name that "
            "of the weights by --tokenizer"
        )
    path = as_path(given) if given is not None else as_path(directory) / there[0]
    model = read_bytes(path)
    wrong = what_was_downloaded(model[:512])
    if wrong or model.lstrip()[:1] == b"{":
        raise Owl2Error(f"{path} is {wrong or f'JSON, expected a tokenizer; {_ADVICE}'}")
    check_fit(_count(model, path), vocab_size, f"give the model's own tokenizer, not {path}")
    return model


def why_no_tokenizer(directory: str | Path) -> str:
    """What a directory of PyTorch weights has instead of a tokenizer, and what to do."""
    directory = as_path(directory)
    if (directory / "tokenizer.json").exists():
        return f"{directory} has tokenizer.json alone, which is not read here; {_ADVICE}"
    return f"{directory} has no tokenizer; {_ADVICE}"


def special_ids(model: bytes | None) -> tuple[int, int]:
    """(bos, eos) ids of a tokenizer; LLaMA's when there is none, and the end twice where nothing begins."""
    if model is None:
        return 1, 2
    if tokenizer_files.holds_ranks(model):
        end = _count(model, Path(tokenizer_files.RANKS)) - len(tokenizer_files.SPECIAL_TOKENS)
        return end, end
    processor = _load(model, Path(tokenizer_files.SENTENCE_PIECES))
    return processor.bos_id(), processor.eos_id()


def _count(model: bytes, path: Path) -> int:
    """How many ids a tokenizer has."""
    if tokenizer_files.holds_ranks(model):
        return len(tokenizer_files.read_ranks(model, str(path))) + len(tokenizer_files.SPECIAL_TOKENS)
    return _load(model, path).vocab_size()


def _load(model: bytes, path: Path) -> Any:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError:
        raise Owl2Error(
            f"{path} is no SentencePiece model, or damaged; give the tokenizer.model of the original"
        ) from None
    return processor


def settings(tokenizer: bytes, max_length: int) -> dict[str, dict[str, Any]]:
    """{file name: content} of what stands beside a tokenizer."""
    if tokenizer_files.holds_ranks(tokenizer):
        config = {"model_max_length": max_length, "tokenizer_class": "QWenTokenizer"}
        return {"tokenizer_config.json": config}
    return {
        "tokenizer_config.json": _llama_config(max_length),
        "special_tokens_map.json": {name: _added_token(text) for name, text in _SPECIAL.items()},
    }


def _llama_config(max_length: int) -> dict[str, Any]:
    """`tokenizer_config.json` of a LlamaTokenizer with the legacy behaviour."""
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        "model_max_length": max_length,
        "pad_token": None,
        "padding_side": "right",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        **{name: {"__type": "AddedToken", **_added_token(text)} for name, text in _SPECIAL.items()},
    }


_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def _added_token(content: str) -> dict[str, Any]:
    return {
        "content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False,
    }  # fmt: skip


def generation_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`generation_config.json` beside a `config.json`."""
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id") if name in config}
    return {"_from_model_config": True, "transformers_version": "4.31.0", **ids}


def preprocessor_config(image_size: int) -> dict[str, Any]:
    """`preprocessor_config.json` of a CLIPImageProcessor at `image_size` pixels."""
    return {
        "crop_size": {"height": image_size, "width": image_size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(CLIP_MEAN),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": list(CLIP_STD),
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": image_size},
    }
