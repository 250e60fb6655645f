"""Small scheduled programs as the TPU compiler writes them, on a chip with round numbers."""

from owl2_jax.parallel.chips import Chip

GB = 1e9
# 1 cycle is 1 ns; 1 byte of memory 1 ns; 1000 operations of a product 1 ns.
CHIP = Chip(1e12, 16 * GB, 1 * GB, 1 * GB, 4, clock=1e9)


def estimate(cycles):
    return f'backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'


def program(body, more=""):
    """A module whose entry is the given lines."""
    return f"HloModule jit_f, is_scheduled=true\n\n{more}\nENTRY %main (x: f32[8]) -> f32[8] {{\n{body}\n}}\n"
