"""Any checkpoint directory to a model that is ready for use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from owl2_jax.checkpoint.param_files import (
    read_model_json,
    read_tokenizer,
    resolve_checkpoint,
    restore_params,
)
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.paths import absolute, as_path
from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.core.tree import Params
from owl2_jax.data.tokenizers import open_tokenizer
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.quantize import quantize_loaded
from owl2_jax.inference.weight_layouts import lay_out
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import abstract_params, logical_axes


def load_model(
    path: str | Path, *, dtype: str | None = None, mesh: Mesh | None = None, int8: bool = False
) -> LoadedModel:
    """Loads a model directory, a run directory (its latest step), a step of a run, or a released directory.

    Args:
      path: the directory; it holds the tokenizer as well.
      dtype: of parameters and computation, "float32" or "bfloat16"; the
        checkpoint's own computation dtype by default.
      mesh: where the parameters go, each device reading only what it will hold;
        None for the default device.
      int8: hold the decoder's matrices in int8 (`inference.quantize`); each is rounded before the
        next is read, so that memory has to hold one of them beside the model in int8.

    Raises:
      Owl2Error: a directory that is missing, half-written, damaged, of
        another format, or without a tokenizer.
    """
    from owl2_jax.convert.load import is_released_directory
    from owl2_jax.convert.tokenizer_files import why_no_tokenizer

    path = as_path(path)
    load = _load_released if is_released_directory(path) else _load_ours
    config, params, settings, tokenizer = load(path, dtype, mesh, quantize_loaded if int8 else None)
    if tokenizer is None:
        if load is _load_released:
            raise Owl2Error(f"checkpoint {why_no_tokenizer(path)}")
        raise Owl2Error(f"checkpoint {path} has no tokenizer beside it; copy the one it was trained with")
    model = LoadedModel(
        config,
        params if mesh is not None else jax.device_put(params),
        open_tokenizer(tokenizer),
        PromptFormat.of(settings),
        name=absolute(path).name,
        mesh=mesh,
    )
    return lay_out(model) if jax.default_backend() == "tpu" else model


Each = Callable[[str, Any], Mapping[str, Any]] | None
Parts = tuple[Owl2Config, Params, dict[str, Any], bytes | None]


def _load_ours(path: Path, dtype: str | None, mesh: Mesh | None, each: Each) -> Parts:
    found = resolve_checkpoint(path)
    settings = read_model_json(found.directory)
    config = Owl2Config.from_dict(settings["model"])
    config = config.replace(dtype=dtype or config.dtype, param_dtype=dtype or config.dtype)
    params = restore_params(found.params, abstract_params(config), _shardings(config, mesh), each)
    return config, params, settings, read_tokenizer(found.directory)


def _load_released(path: Path, dtype: str | None, mesh: Mesh | None, each: Each) -> Parts:
    from owl2_jax.convert.hf_config import read_hf_config
    from owl2_jax.convert.load import load_hf
    from owl2_jax.convert.source import Source

    config = read_hf_config(Source(path).config(), str(path / "config.json"))
    loaded = load_hf(path, dtype=dtype, shardings=_shardings(config, mesh), each=each)
    return loaded.config, loaded.params, loaded.model, loaded.tokenizer


def _shardings(config: Owl2Config, mesh: Mesh | None) -> Params | None:
    if mesh is None:
        return None
    from owl2_jax.parallel.shardings import check_params, param_shardings

    names = logical_axes(config)
    check_params(names, abstract_params(config), mesh)
    return param_shardings(names, mesh)
