"""LoRA adapters in the format of the PEFT library, as the original code loads them.

A directory holds

    adapter_config.json         rank, alpha, dropout, modules
    adapter_model.safetensors   the adapters (adapter_model.bin is read, too)
    non_lora_trainables.bin     what trained beside them: the abstractor
    config.json, preprocessor_config.json   of the whole model

which is what the original's `load_pretrained_model(path, base, name)` opens,
with a `name` that contains "mplug_owl2" and "lora". Tensors are float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from owl2_jax.checkpoint.output_directory import new_directory, refuse_existing
from owl2_jax.checkpoint.param_files import (
    ParamsReader,
    check_fit,
    read_model_json,
    read_tokenizer,
    resolve_checkpoint,
    write_model_directory,
)
from owl2_jax.convert import tokenizer_files
from owl2_jax.convert.adapter_names import adapter_rules, kernel_rules, module
from owl2_jax.convert.formats import format_of
from owl2_jax.convert.hf_config_writer import write_hf_config
from owl2_jax.convert.opened import open_model
from owl2_jax.convert.peft_files import AdapterSettings, Tensors, read_adapter_config, write_adapter_config
from owl2_jax.convert.peft_tensors import check_listed, check_tensors, read_leaves, saved_pairs
from owl2_jax.convert.pickled_writer import write_pickled
from owl2_jax.convert.safetensors_file import SafetensorsWriter, TensorSpec
from owl2_jax.convert.to_flax import leaf_shapes
from owl2_jax.convert.weight_names import Pair, Rule, pairs
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.file_writing import new_file, write_text
from owl2_jax.core.paths import as_path
from owl2_jax.core.tree import unflatten
from owl2_jax.model.config import LoraConfig, Owl2Config

ADAPTER_FILES: Final = ("adapter_model.safetensors", "adapter_model.bin")
TRAINABLES_FILE: Final = "non_lora_trainables.bin"
_FLOAT32: Final = np.dtype("<f4")


def is_abstractor(name: str) -> bool:
    """What the recipe trains beside the adapters."""
    return name.startswith("abstractor/")


def export_peft(
    checkpoint: str | Path,
    output: str | Path,
    base: str = "",
    trained: Callable[[str], bool] = is_abstractor,
) -> None:
    """Writes the adapters of a checkpoint, and what trained beside them, as a PEFT directory.

    Args:
      checkpoint: model or run directory of a model with adapters.
      output: must not exist yet.
      base: what `base_model_name_or_path` says.
      trained: whether a leaf that is no adapter trained, too.

    Raises:
      Owl2Error: a model without adapters, a damaged checkpoint, or an output
        that exists or does not fit on the disk.
    """
    refuse_existing(output)
    found = resolve_checkpoint(checkpoint)
    config = Owl2Config.from_dict(read_model_json(found.directory)["model"])
    if config.lora is None:
        raise Owl2Error(
            f"{checkpoint} has no LoRA adapters to export; `owl2 convert to-torch` exports a model"
        )
    reader, shapes = ParamsReader(found.params), leaf_shapes(config)
    check_fit(reader.shapes, shapes, str(found.params))
    rules = adapter_rules(config, config.lora.targets)
    layers = _adapted_layers(reader, rules)
    adapters = [pair for pair in pairs(rules, shapes) if layers is None or pair.layer in layers]
    beside = list(pairs(_trained_rules(config, shapes, trained), shapes))
    specs = {pair.theirs: TensorSpec(pair.their_shape, _FLOAT32) for pair in adapters}
    specs = dict(sorted(specs.items()))
    size = sum(spec.nbytes for spec in specs.values()) + sum(4 * _count(pair) for pair in beside)
    with new_directory(output, size) as directory:
        with new_file(directory / ADAPTER_FILES[0]) as file:
            writer = SafetensorsWriter(file, Tensors.prefixed(specs))
            for pair, values in _exported(adapters, reader):
                writer.write(Tensors.PREFIX + pair.theirs, values, pair.rows)
        with new_file(directory / TRAINABLES_FILE) as file:
            write_pickled(file, _whole_tensors(_exported(beside, reader)))
        modules = [module(config, target) for target in config.lora.targets]
        write_adapter_config(directory, config.lora, modules, base, layers)
        _write_model_settings(directory, config, read_tokenizer(found.directory))


def _trained_rules(
    config: Owl2Config, shapes: Mapping[str, tuple[int, ...]], trained: Callable[[str], bool]
) -> list[Rule]:
    """The rows of what trained; a tensor of several leaves goes whole where one of them did."""
    there = [rule for rule in format_of(config).rules if rule.ours in shapes]
    theirs = {rule.theirs for rule in there if trained(rule.ours)}
    return [rule for rule in there if rule.theirs in theirs]


def _adapted_layers(reader: ParamsReader, rules: Sequence[Rule]) -> list[int] | None:
    """The layers whose adapters are not all zeros in both matrices; None when there is no other layer."""
    used = np.any(
        [reader.read(rule.ours).any(axis=tuple(range(1, len(reader.shapes[rule.ours])))) for rule in rules],
        axis=0,
    )
    layers = np.flatnonzero(used).tolist()
    return layers if 0 < len(layers) < len(used) else None


def _count(pair: Pair) -> int:
    return int(np.prod(pair.shape))


def _exported(listed: Sequence[Pair], reader: ParamsReader) -> Iterator[tuple[Pair, np.ndarray]]:
    leaf, values = "", np.empty(0)
    for pair in listed:
        if pair.rule.ours != leaf:  # the layers of a leaf come one after the other
            leaf, values = pair.rule.ours, reader.read(pair.rule.ours)
        one = values if pair.layer is None else values[pair.layer]
        yield pair, np.asarray(pair.rule.op.to_theirs(one), _FLOAT32)


def _whole_tensors(exported: Iterator[tuple[Pair, np.ndarray]]) -> dict[str, np.ndarray]:
    """{their name: tensor}; parts of one tensor come in their order."""
    parts: dict[str, list[np.ndarray]] = {}
    for pair, values in exported:
        parts.setdefault(Tensors.PREFIX + pair.theirs, []).append(values)
    return {name: found[0] if len(found) == 1 else np.concatenate(found) for name, found in parts.items()}


def _write_model_settings(directory: Path, config: Owl2Config, tokenizer: bytes | None) -> None:
    bos_id, eos_id = tokenizer_files.special_ids(tokenizer)
    files = {
        "config.json": write_hf_config(config, "float16", bos_id, eos_id),
        "preprocessor_config.json": tokenizer_files.preprocessor_config(config.vision.image_size),
    }
    for name, values in files.items():
        text = json.dumps(values, indent=2, sort_keys=True) + "\n"
        write_text(directory / name, text)


def import_peft(base: str | Path, adapter: str | Path, output: str | Path) -> Owl2Config:
    """Writes the model directory `output`: a base model with the adapters of a PEFT directory.

    Args:
      base: model, run or released directory without adapters.
      adapter: directory with `adapter_config.json` and the adapters; what is
        in `non_lora_trainables.bin`, where there is one, replaces that of the
        base, and so do the modules of `modules_to_save`.
      output: must not exist yet.

    Returns:
      The configuration of the new model.

    Raises:
      Owl2Error: a missing or damaged file, a setting that is not ours, or
        tensors that do not fit the base.
    """
    refuse_existing(output)
    # The adapter first: opening the base takes seconds, or minutes where it is large.
    directory = as_path(adapter)
    settings = read_adapter_config(directory)
    adapters = Tensors.open(directory, ADAPTER_FILES)
    opened = open_model(base)
    if opened.config.lora is not None:
        raise Owl2Error(f"{base} has LoRA adapters already; merge them first with `owl2 convert merge-lora`")
    targets = _targets(settings, opened.config, opened.shapes, str(adapter))
    lora = LoraConfig(settings.rank, settings.alpha, settings.dropout, targets)
    config = opened.config.replace(lora=lora)
    shapes = leaf_shapes(config)
    rules = adapter_rules(config, targets)
    adapted = [pair for pair in pairs(rules, shapes) if _adapts(settings, pair)]
    saved = saved_pairs(settings.saved, opened.config, opened.shapes, str(adapter))
    check_tensors(adapters, [*adapted, *saved], config, settings.saved)
    imported: dict[str, np.ndarray] = {}
    if (directory / TRAINABLES_FILE).is_file():
        beside = Tensors.open(directory, (TRAINABLES_FILE,))
        listed = list(pairs(_rules_of(beside.specs, config, shapes), shapes))
        check_listed(beside, listed)
        imported |= read_leaves(listed, beside, shapes)
    # PEFT puts what it saved over what the original code loaded into the base before.
    imported |= read_leaves(saved, adapters, shapes, lambda name: imported.get(name, opened.read(name)))
    imported |= read_leaves(adapted, adapters, shapes)
    leaves = {name: imported[name] if name in imported else opened.leaves[name] for name in shapes}
    write_model_directory(
        output, {**opened.model, "model": config.to_dict()}, unflatten(leaves), opened.tokenizer
    )
    return config


def _targets(
    settings: AdapterSettings, config: Owl2Config, shapes: Mapping[str, tuple[int, ...]], adapter: str
) -> tuple[str, ...]:
    """The maps that have adapters in some layer."""
    found = []
    known = kernel_rules(config)
    for target, rule in known.items():
        kernels = pairs([rule], shapes) if rule.ours in shapes else ()
        if any(settings.adapts(pair.theirs.removesuffix(".weight")) for pair in kernels):
            found.append(target)
    if not found:
        raise Owl2Error(
            f"{adapter}: target_modules and layers_to_transform name no module of the base's decoder layers, "
            f"which are {', '.join(module(config, target) for target in known)}"
        )
    return tuple(found)


def _adapts(settings: AdapterSettings, pair: Pair) -> bool:
    return settings.adapts(pair.theirs.partition(".lora_")[0])


def _rules_of(
    names: Mapping[str, Any], config: Owl2Config, shapes: Mapping[str, tuple[int, ...]]
) -> list[Rule]:
    """The rows of the table that any of these tensors belongs to."""
    there = [rule for rule in format_of(config).rules if rule.ours in shapes]
    by_name = {pair.theirs: pair.rule.theirs for pair in pairs(there, shapes)}
    unknown = next((name for name in names if name not in by_name), None)
    if unknown is not None:
        raise unknown_name(f"tensor of {TRAINABLES_FILE}", unknown, by_name)
    wanted = {by_name[name] for name in names}
    return [rule for rule in there if rule.theirs in wanted]
