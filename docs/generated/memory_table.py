"""What a run must hold between its steps, on every chip that is known, counted from shapes."""

from __future__ import annotations

from tables import code, table

from owl2_jax.config import load_config
from owl2_jax.parallel.chips import CHIPS, GB, GIB
from owl2_jax.perf.inspecting import Machine, inspect

# Config of a run -> what the column is called.
RUNS = {
    "instruct_7b": "everything trains",
    "finetune_7b:devices=1": "abstractor and decoder",
    "lora_7b:devices=1": "LoRA",
    "lora_7b:devices=1,base=int8": "LoRA beside 8 bits",
}
FREE = 0.2  # share of a chip's memory that is left for activations
MOST = 256


def state_bytes(config: str) -> int:
    """Parameters, optimiser and gradients of a run, over all chips."""
    memory = inspect(load_config(config), Machine(1))["memory"]
    return memory["parameters"] + memory["optimiser"] + memory["gradients"]


def chips_for(needed: int, capacity: float) -> int:
    """The least power of two of chips that hold `needed` in pieces and have `FREE` left."""
    count = 1
    while needed > count * capacity * (1 - FREE) and count < MOST:
        count *= 2
    return count


def memory_table() -> str:
    """A row per chip: how many of them a run needs at least."""
    needed = {config: state_bytes(config) for config in RUNS}
    rows = [("all chips together", "", *(f"{size / GIB:.1f} GiB" for size in needed.values()))]
    for name, chip in CHIPS.items():
        unit = f"{chip.memory / GIB:.2f} GiB" if chip.accelerator else f"{chip.memory / GB:g} GB"
        counts = [chips_for(size, chip.memory) for size in needed.values()]
        rows.append((code(name), unit, *(f"{count} chip{'s' * (count > 1)}" for count in counts)))
    return table(("chip", "memory", *RUNS.values()), rows)
