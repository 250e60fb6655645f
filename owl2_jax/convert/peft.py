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
from owl2_jax.convert.hf_config_writer import write_hf_config
from owl2_jax.convert.opened import open_model
from owl2_jax.convert.ops import Linear
from owl2_jax.convert.peft_files import Tensors, read_adapter_config, write_adapter_config
from owl2_jax.convert.peft_modules import Selection
from owl2_jax.convert.pickled_writer import write_pickled
from owl2_jax.convert.rules import OWL2, Pair, Rule, pairs
from owl2_jax.convert.safetensors_file import SafetensorsWriter, TensorSpec
from owl2_jax.convert.to_flax import leaf_shapes
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.text_files import write_text
from owl2_jax.core.tree import unflatten
from owl2_jax.model.config import LORA_TARGETS, LoraConfig, Owl2Config

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
    layers = _adapted_layers(reader, config.lora.targets)
    adapters = [
        pair for pair in pairs(adapter_rules(config.lora.targets), shapes)
        if layers is None or pair.layer in layers
    ]  # fmt: skip
    beside = list(pairs([rule for rule in OWL2 if rule.ours in shapes and trained(rule.ours)], shapes))
    specs = {pair.theirs: TensorSpec(pair.their_shape, _FLOAT32) for pair in adapters}
    specs = dict(sorted(specs.items()))
    size = sum(spec.nbytes for spec in specs.values()) + sum(4 * _count(pair) for pair in beside)
    with new_directory(output, size) as directory:
        writer = SafetensorsWriter(directory / ADAPTER_FILES[0], Tensors.prefixed(specs))
        for name, values in _exported(adapters, reader):
            writer.write(name, values)
        write_pickled(directory / TRAINABLES_FILE, dict(_exported(beside, reader)))
        modules = [module(target) for target in config.lora.targets]
        write_adapter_config(directory, config.lora, modules, base, layers)
        _write_model_settings(directory, config, read_tokenizer(found.directory))


def _adapted_layers(reader: ParamsReader, targets: Sequence[str]) -> list[int] | None:
    """The layers whose adapters are not all zeros in both matrices; None when there is no other layer."""
    used = np.any(
        [reader.read(rule.ours).any(axis=tuple(range(1, len(reader.shapes[rule.ours]))))
         for rule in adapter_rules(targets)],
        axis=0,
    )  # fmt: skip
    layers = np.flatnonzero(used).tolist()
    return layers if 0 < len(layers) < len(used) else None


def _count(pair: Pair) -> int:
    return int(np.prod(pair.shape))


def _exported(listed: Sequence[Pair], reader: ParamsReader) -> Iterator[tuple[str, np.ndarray]]:
    leaf, values = "", np.empty(0)
    for pair in listed:
        if pair.rule.ours != leaf:  # the layers of a leaf come one after the other
            leaf, values = pair.rule.ours, reader.read(pair.rule.ours)
        one = values if pair.layer is None else values[pair.layer]
        yield Tensors.PREFIX + pair.theirs, np.asarray(pair.rule.op.to_theirs(one), _FLOAT32)


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
        base.
      output: must not exist yet.

    Returns:
      The configuration of the new model.

    Raises:
      Owl2Error: a missing or damaged file, a setting that is not ours, or
        tensors that do not fit the base.
    """
    refuse_existing(output)
    # The adapter first: opening the base takes seconds, or minutes where it is large.
    settings = read_adapter_config(Path(adapter))
    adapters = Tensors.open(Path(adapter), ADAPTER_FILES)
    opened = open_model(base)
    if opened.config.lora is not None:
        raise Owl2Error(f"{base} has LoRA adapters already; merge them first with `owl2 convert merge-lora`")
    targets = _targets(settings.selection, opened.shapes, str(adapter))
    lora = LoraConfig(settings.rank, settings.alpha, settings.dropout, targets)
    config = opened.config.replace(lora=lora)
    shapes = leaf_shapes(config)
    listed = [pair for pair in pairs(adapter_rules(targets), shapes) if _adapts(settings.selection, pair)]
    imported = _imported(listed, adapters, shapes)
    if (Path(adapter) / TRAINABLES_FILE).is_file():
        beside = Tensors.open(Path(adapter), (TRAINABLES_FILE,))
        imported |= _imported(list(pairs(_rules_of(beside.specs, shapes), shapes)), beside, shapes)
    leaves = {name: imported[name] if name in imported else opened.leaves[name] for name in shapes}
    write_model_directory(
        output, {**opened.model, "model": config.to_dict()}, unflatten(leaves), opened.tokenizer
    )
    return config


def _targets(selection: Selection, shapes: Mapping[str, tuple[int, ...]], adapter: str) -> tuple[str, ...]:
    """The maps that have adapters in some layer."""
    found = []
    for target, rule in adapted_rules().items():
        kernels = pairs([rule], shapes) if rule.ours in shapes else ()
        if any(selection.adapts(pair.theirs.removesuffix(".weight")) for pair in kernels):
            found.append(target)
    if not found:
        raise Owl2Error(
            f"{adapter}: target_modules and layers_to_transform name no module of the base's decoder layers, "
            f"which are {', '.join(module(target) for target in LORA_TARGETS)}"
        )
    return tuple(found)


def _adapts(selection: Selection, pair: Pair) -> bool:
    return selection.adapts(pair.theirs.partition(".lora_")[0])


def _imported(
    listed: Sequence[Pair], tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Our leaves from their tensors, of which exactly those listed must be there.

    A layer without an adapter gets zeros in both matrices: it adds nothing, and
    as the gradient of each matrix has the other as a factor, never will.
    """
    check_fit(
        {name: spec.shape for name, spec in tensors.specs.items()},
        {pair.theirs: pair.their_shape for pair in listed},
        str(tensors.path),
    )
    leaves: dict[str, np.ndarray] = {}
    for pair in listed:
        ours = pair.rule.op.to_ours(tensors.read(pair.theirs), pair.shape)
        if pair.layer is None:
            leaves[pair.rule.ours] = ours
            continue
        stack = leaves.setdefault(pair.rule.ours, np.zeros(shapes[pair.rule.ours], np.float32))
        stack[pair.layer] = ours
    return leaves


def _rules_of(names: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[Rule]:
    """The rows of the table that any of these tensors belongs to."""
    by_name = {pair.theirs: pair.rule for pair in pairs([r for r in OWL2 if r.ours in shapes], shapes)}
    unknown = next((name for name in names if name not in by_name), None)
    if unknown is not None:
        raise unknown_name(f"tensor of {TRAINABLES_FILE}", unknown, by_name)
    return [rule for rule in OWL2 if any(by_name[name] is rule for name in names)]


def adapted_rules() -> dict[str, Rule]:
    """{target: the row of the table of names for the kernel it stands beside}."""
    kernels = {
        rule.ours.split("/")[-2]: rule
        for rule in OWL2
        if rule.ours.startswith("decoder/layers/") and rule.ours.endswith("/kernel")
    }
    return {target: kernels[target] for target in LORA_TARGETS}


def adapter_rules(targets: Sequence[str]) -> list[Rule]:
    """Rows for both matrices of each target's adapter; theirs are [r, in] and [out, r]."""
    rules = []
    for target in targets:
        kernel = adapted_rules()[target]
        assert isinstance(kernel.op, Linear)
        ours, theirs = kernel.ours.removesuffix("kernel"), kernel.theirs.removesuffix("weight")
        rules.append(Rule(f"{ours}lora_a", f"{theirs}lora_A.weight", Linear(kernel.op.in_axes)))
        rules.append(Rule(f"{ours}lora_b", f"{theirs}lora_B.weight", Linear(1)))
    return rules


def module(target: str) -> str:
    """ "k_text" to "k_proj.multiway.0": the end of the module's path, which PEFT compares."""
    return adapted_rules()[target].theirs.removesuffix(".weight").split(".", 4)[-1]
