"""The files of a PEFT directory: settings, and tensors under the names of the wrapped model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from owl2_jax.convert.pickled_file import PickledReader
from owl2_jax.convert.safetensors_file import SafetensorsReader, TensorSpec
from owl2_jax.convert.source import read_json
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.config import LoraConfig

CONFIG_FILE: Final = "adapter_config.json"
# Settings that change what adapters compute and have no counterpart here.
_REFUSED: Final = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")


@dataclass(frozen=True)
class Tensors:
    """A file of tensors; names are given without the prefix of PEFT's wrapper.

    Attributes:
      path: the file.
      specs: shape and dtype by name.
      reader: of the file, by its own names.
    """

    PREFIX: ClassVar[str] = "base_model.model."
    path: Path
    specs: Mapping[str, TensorSpec]
    reader: Any
    _own: Mapping[str, str]

    @classmethod
    def open(cls, directory: Path, names: Sequence[str]) -> Tensors:
        """The first of the files that is there. Raises `Owl2Error` when none is, or it is damaged."""
        path = next((directory / name for name in names if (directory / name).is_file()), None)
        if path is None:
            raise Owl2Error(
                f"{directory} has no {' or '.join(names)}; expected a directory as PEFT's save_pretrained "
                "writes it"
            )
        reader = SafetensorsReader(path) if path.suffix == ".safetensors" else PickledReader(path)
        own = {name.removeprefix(cls.PREFIX): name for name in reader.specs}
        return cls(path, {name: reader.specs[theirs] for name, theirs in own.items()}, reader, own)

    @classmethod
    def prefixed(cls, specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        """The names as they stand in a file."""
        return {cls.PREFIX + name: spec for name, spec in specs.items()}

    def read(self, name: str) -> np.ndarray:
        return self.reader.read(self._own[name])


def write_adapter_config(directory: Path, lora: LoraConfig, modules: Sequence[str], base: str) -> None:
    """Writes `adapter_config.json`; modules are named by the ends of their paths."""
    values = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": list(modules),
        "task_type": "CAUSAL_LM",
    }
    (directory / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_adapter_config(directory: Path, targets: tuple[str, ...]) -> LoraConfig:
    """Our settings from `adapter_config.json`. Raises `Owl2Error` for what has no counterpart."""
    path = directory / CONFIG_FILE
    values = read_json(path)
    if values.get("peft_type") != "LORA":
        raise Owl2Error(f"{path} is of type {values.get('peft_type')!r}; only LORA can be imported")
    for name in _REFUSED:
        if values.get(name):
            raise Owl2Error(f"{path} sets {name}, which has no counterpart here")
    if values.get("bias", "none") != "none":
        raise Owl2Error(f"{path} trains biases ({values['bias']!r}); the decoder here has none")
    try:
        return LoraConfig(
            int(values["r"]), float(values["lora_alpha"]), float(values.get("lora_dropout", 0.0)), targets
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Owl2Error(f"{path} is damaged: {type(error).__name__} {error}") from None
