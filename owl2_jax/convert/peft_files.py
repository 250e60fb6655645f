"""The files of a PEFT directory: settings, and tensors under the names of the wrapped model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from owl2_jax.convert.finite import cast, is_float
from owl2_jax.convert.key_rules import check_keys, number, shown, size, truth
from owl2_jax.convert.peft_keys import PEFT_KEYS
from owl2_jax.convert.peft_modules import Saved, Selection, read_saved, read_selection
from owl2_jax.convert.pickled_file import PickledReader
from owl2_jax.convert.safetensors_file import SafetensorsReader, TensorSpec
from owl2_jax.convert.source import wrapper_of
from owl2_jax.core.buckets import exists
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import write_text
from owl2_jax.core.json_files import read_json_object
from owl2_jax.model.config import LoraConfig

CONFIG_FILE: Final = "adapter_config.json"
_EXPECTED: Final = "expected a directory as PEFT's save_pretrained writes it"
_FLOAT32: Final = np.dtype("<f4")


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
            raise Owl2Error(f"{directory} has no {' or '.join(names)}; {_EXPECTED}")
        reader = SafetensorsReader(path) if path.suffix == ".safetensors" else PickledReader(path)
        wrapper = wrapper_of(reader.specs)
        own: dict[str, str] = {}
        for name in reader.specs:
            short = name.removeprefix(wrapper).removeprefix(cls.PREFIX)
            if short in own:
                raise Owl2Error(f"{path} has two tensors for {short}: {own[short]} and {name}; keep one")
            own[short] = name
        wrong = [name for name, spec in reader.specs.items() if not is_float(spec.dtype)]
        if wrong:
            raise Owl2Error(
                f"{path}: {wrong[0]} holds {reader.specs[wrong[0]].dtype} numbers, expected floating point "
                f"({len(wrong)} tensors are like that); save the adapter without quantizing it"
            )
        return cls(path, {name: reader.specs[theirs] for name, theirs in own.items()}, reader, own)

    @classmethod
    def prefixed(cls, specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        """The names as they stand in a file."""
        return {cls.PREFIX + name: spec for name, spec in specs.items()}

    def stored(self, name: str) -> np.ndarray:
        """A tensor in the type of the file."""
        return self.reader.read(self._own[name])

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32. Raises `Owl2Error` when its values are not finite, or not there."""
        return cast(self.stored(name), _FLOAT32, f"{self.path}: {self._own[name]}")


def write_adapter_config(
    directory: Path, lora: LoraConfig, modules: Sequence[str], base: str, layers: Sequence[int] | None = None
) -> None:
    """Writes `adapter_config.json`; modules are named by the ends of their paths, None means all layers."""
    values = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        **({} if layers is None else {"layers_to_transform": list(layers)}),
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": list(modules),
        "task_type": "CAUSAL_LM",
    }
    write_text(directory / CONFIG_FILE, json.dumps(values, indent=2) + "\n")


@dataclass(frozen=True)
class AdapterSettings:
    """What `adapter_config.json` says.

    Attributes:
      rank, alpha, dropout: as in `LoraConfig`.
      selection: the modules that have an adapter.
      saved: those whose weights are replaced.
    """

    rank: int
    alpha: float
    dropout: float
    selection: Selection
    saved: Saved

    def adapts(self, module: str) -> bool:
        """Whether a module, by its full name, has an adapter."""
        return self.selection.adapts(module) and not self.saved.guards(module)


def read_adapter_config(directory: Path) -> AdapterSettings:
    """The settings of a PEFT directory. Raises `Owl2Error` for what has no counterpart here."""
    path = directory / CONFIG_FILE
    if not exists(path):
        raise Owl2Error(f"{directory} has no {CONFIG_FILE}; {_EXPECTED}")
    return parse_adapter_config(read_json_object(path), str(path))


def parse_adapter_config(values: Mapping[str, Any], where: str) -> AdapterSettings:
    """As `read_adapter_config`, of the parsed file."""
    if values.get("peft_type") != "LORA":
        raise Owl2Error(f"{where} is of type {shown(values.get('peft_type'))}; only LORA can be imported")
    check_keys(values, PEFT_KEYS, where)
    rank, alpha = size(values, "r", where), number(values, "lora_alpha", where)
    if truth(values, "use_rslora", where):
        alpha *= rank**0.5  # there the scale is alpha / sqrt(r), here alpha / r
    selection, saved = read_selection(values, where), read_saved(values, where)
    return AdapterSettings(rank, alpha, _dropout(values, where), selection, saved)


def _dropout(values: Mapping[str, Any], where: str) -> float:
    dropout = values.get("lora_dropout", 0.0)
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise Owl2Error(f"{where}: lora_dropout should be a number from 0 to below 1, found {shown(dropout)}")
    return float(dropout)
