"""The parameters of step 0, and what can be known about them before a device is touched."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax

from owl2_jax.checkpoint import param_files
from owl2_jax.core import tokenizer_files, tree
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import Params, Tree
from owl2_jax.model import int8, lora
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.layers import KERNEL_SCALE
from owl2_jax.model.owl2 import abstract_params, init_params
from owl2_jax.training.int8_base import quantize_base
from owl2_jax.training.trainer import Trainer

# Leaves whose shape follows from the image size and the number of queries.
_RESIZABLE = ("vision/position_embedding", "abstractor/queries")
_OF_IMAGES = re.compile(r"^decoder/.*_image/")  # copies that the module has for images


def starting_params(trainer: Trainer) -> Params:
    """Parameters of `start_from`, or random ones from the seed, on the mesh. Raises `Owl2Error`."""
    if trainer.config.start_from is None:
        return trainer.init(jax.random.key(trainer.config.seed))
    checkpoint = param_files.resolve_checkpoint(trainer.config.start_from)
    like = trainer.abstract_state().params
    if trainer.model.config.lora is None or _config_of(checkpoint).lora is not None:
        return param_files.restore_params(checkpoint.params, like)
    # The checkpoint knows nothing of adapters: they start beside it, and B at zero changes nothing.
    adapters, base = lora.split_adapters(like)
    return tree.combine(_draw(adapters, trainer), _base(checkpoint, base, trainer.model.config))


def _draw(like: Tree, trainer: Trainer) -> Params:
    """New adapters on the mesh; nothing else of a random model is made."""

    def draw(key: jax.Array) -> Params:
        return lora.split_adapters(init_params(trainer.model.config, key))[0]

    places = jax.tree.map(lambda leaf: leaf.sharding, like)
    return jax.jit(draw, out_shardings=places)(jax.random.key(trainer.config.seed))


def _base(checkpoint: param_files.Checkpoint, like: Tree, config: Owl2Config) -> Params:
    """The model that adapters stand beside, its kernels in int8 where the config says so."""
    floats = {
        name: jax.ShapeDtypeStruct(leaf.shape, config.dtype, sharding=leaf.sharding)
        if int8.is_int8_base(name, config)
        else leaf
        for name, leaf in tree.flatten(like).items()
        if not name.endswith(KERNEL_SCALE)
    }
    found = param_files.restore_params(checkpoint.params, tree.unflatten(floats))
    return quantize_base(found, like, config)


def check_start(start_from: str | None, shapes: Tree, tokenizer: bytes) -> None:
    """Checks that a run can start from a checkpoint, reading no values.

    Args:
      shapes: the parameters of the run as `jax.ShapeDtypeStruct`.
      tokenizer: bytes of the run's tokenizer.

    Raises:
      Owl2Error: it is missing, half-written, of another size, or was trained
        with another tokenizer.
    """
    if start_from is None:
        return
    try:
        checkpoint = param_files.resolve_checkpoint(start_from)
    except Owl2Error as error:
        raise Owl2Error(f"train.start_from: {error}") from None
    # What the files hold is compared when they are read, which takes a device.
    theirs = _config_of(checkpoint)
    stored, expected = _sizes(abstract_params(theirs)), _sizes(shapes)
    _check_adapters(start_from, stored, expected)
    if theirs.lora is None:
        beside = (f"/{lora.FIRST}", f"/{lora.SECOND}", f"/{KERNEL_SCALE}")
        expected = {name: size for name, size in expected.items() if not name.endswith(beside)}
    _check_sizes(start_from, stored, expected)
    _check_module(start_from, stored, expected)
    param_files.check_fit(stored, expected, f"train.start_from {start_from}")
    their_tokenizer = param_files.read_tokenizer(checkpoint.directory)
    if their_tokenizer is not None and their_tokenizer != tokenizer:
        own = checkpoint.directory / tokenizer_files.file_name(their_tokenizer)
        raise Owl2Error(
            f"train.start_from {start_from} was trained with another tokenizer than data.tokenizer, so the "
            f"same ids mean other pieces; set data.tokenizer={own}"
        )


def _config_of(checkpoint: param_files.Checkpoint) -> Owl2Config:
    return Owl2Config.from_dict(param_files.read_model_json(checkpoint.directory)["model"])


def _check_adapters(start_from: str, stored: Tree, expected: Tree) -> None:
    """Adapters must be merged before a run without them starts from their checkpoint."""
    if any(map(lora.is_adapter, stored)) and not any(map(lora.is_adapter, expected)):
        raise Owl2Error(
            f"train.start_from {start_from} has LoRA adapters, the run has none; "
            f"run `owl2 convert merge-lora --checkpoint {start_from} --output DIR` and start from DIR"
        )


def _sizes(shapes: Tree) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in tree.flatten(shapes).items()}


def _check_module(
    start_from: str, stored: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Names the command for a checkpoint that has no copy per modality where the run has one."""
    missing = sorted(set(expected) - set(stored))
    if missing and all(_OF_IMAGES.search(name) for name in missing):
        raise Owl2Error(
            f"train.start_from {start_from} has another modality-adaptive module than the run (no "
            f"{', '.join(missing[:4])}); run `owl2 convert resize --checkpoint {start_from} --output DIR "
            "--adaptive=NAME` with the name in model.decoder.adaptive, and start from DIR"
        )


def _check_sizes(
    start_from: str, stored: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Names the command that repairs a checkpoint of another image size or query count."""
    differ = [name for name in expected if name in stored and stored[name] != expected[name]]
    if differ and set(differ) <= set(_RESIZABLE):
        sizes = "; ".join(
            f"{name} is {list(stored[name])}, expected {list(expected[name])}" for name in differ
        )
        raise Owl2Error(
            f"train.start_from {start_from} has another image size or number of queries ({sizes}); run "
            f"`owl2 convert resize --checkpoint {start_from} --output DIR` with --image-size or --num-queries"
        )
