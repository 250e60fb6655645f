"""The table of names for LoRA adapters: which module of a released model each stands beside.

mPLUG-Owl2 has a module for each of our maps. mPLUG-Owl2.1 has one for queries, keys
and values together, so its adapters share one A there (`config.FUSED_TARGETS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from owl2_jax.convert.formats import OWL2_TYPE, format_of
from owl2_jax.convert.ops import Linear
from owl2_jax.convert.weight_names import Rule
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.config import FUSED_TARGETS, LORA_TARGETS, Owl2Config

_LAYERS: Final = "decoder/layers/"
_KERNEL: Final = "/kernel"


def kernel_rules(config: Owl2Config) -> dict[str, Rule]:
    """{target: the row for the kernel it stands beside}, of all targets that the model's format has.

    Of a fused target it is the row of the first of its maps.
    """
    found = format_of(config)
    kernels = {
        rule.ours.split("/")[-2]: rule
        for rule in found.rules
        if rule.ours.startswith(_LAYERS) and rule.ours.endswith(_KERNEL)
    }
    if found.model_type != OWL2_TYPE:
        fused = {target: kernels[maps[0]] for target, maps in FUSED_TARGETS.items() if maps[0] in kernels}
        kernels = fused | {target: rule for target, rule in kernels.items() if rule.part is None}
    return {target: kernels[target] for target in LORA_TARGETS if target in kernels}


def adapter_rules(config: Owl2Config, targets: Sequence[str]) -> list[Rule]:
    """Rows for both matrices of each target's adapter; theirs are [r, in] and [out, r].

    Raises:
      Owl2Error: the released format has no module for a target.
    """
    from owl2_jax.model.lora import FIRST, SECOND  # brings JAX, which a bad adapter should not wait for

    known = kernel_rules(config)
    rules = []
    for target in targets:
        if target not in known:
            raise Owl2Error(
                f"model.lora.targets has {target}, which is no module of its own in the released format "
                f"{format_of(config).model_type}; expected of {', '.join(known)}; merge the adapters with "
                "`owl2 convert merge-lora`, or train with these targets"
            )
        kernel = known[target]
        assert isinstance(kernel.op, Linear)
        room, theirs = kernel.ours.removesuffix(_KERNEL).rpartition("/")[0], _module(kernel)
        rules.append(Rule(f"{room}/{target}/{FIRST}", f"{theirs}.lora_A.weight", Linear(kernel.op.in_axes)))
        name = f"{theirs}.lora_B.weight"
        if target not in FUSED_TARGETS:
            rules.append(Rule(f"{room}/{target}/{SECOND}", name, Linear(1)))
            continue
        for part, which in enumerate("qkv"):
            rules.append(Rule(f"{room}/{target}/{which}/{SECOND}", name, Linear(1), part))
    return rules


def module(config: Owl2Config, target: str) -> str:
    """ "k_text" to "k_proj.multiway.0": the end of the module's path, which PEFT compares.

    In mPLUG-Owl2.1 it begins with "attn" or "mlp", as both have a "c_proj".
    """
    parts = 4 if format_of(config).model_type == OWL2_TYPE else 3
    return _module(kernel_rules(config)[target]).split(".", parts)[-1]


def _module(kernel: Rule) -> str:
    return kernel.theirs.removesuffix(".weight")
