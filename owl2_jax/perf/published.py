"""Training steps whose measured speed others have published, rebuilt from our decoder.

The ratio of forecast and measurement says how far a forecast can be trusted. The
figures are those of MaxText's tables for its own configs; where our parts cannot
follow a config to the letter, `deviation` says how.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from owl2_jax.core.errors import unknown_name
from owl2_jax.parallel.chips import CHIPS, parse_topology

_FULL_TABLE: Final = "MaxText, configs/v5e/README.md and 32b.sh, 64b.sh"


@dataclass(frozen=True)
class Published:
    """A decoder of LLaMA's kind, its training step, and what was measured.

    Attributes:
      rows: per chip. length: tokens of a row.
      mfu: as published, by `flops`.
      deviation: what differs from the published config.
    """

    topology: str
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_dim: int
    rows: int
    length: int
    remat: str
    mesh: str
    mfu: float
    source: str
    deviation: str = ""
    vocab_size: int = 32000

    @property
    def chips(self) -> int:
        """How many chips it ran on."""
        return parse_topology(self.topology).count

    @property
    def flops(self) -> float:
        """Of a step on one chip as MaxText counted: three forward passes, attention not halved."""
        head_dim = self.width // self.num_heads
        projections = 2 * self.width * head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        attention = 4 * self.length * self.num_heads * head_dim
        layer = projections + attention + 6 * self.width * self.mlp_dim
        token = self.num_layers * layer + 2 * self.width * self.vocab_size
        return 3.0 * self.rows * self.length * token

    @property
    def seconds(self) -> float:
        """Of the measured step."""
        return self.flops / CHIPS[parse_topology(self.topology).generation].flops / self.mfu

    def config(self) -> dict[str, Any]:
        """Values of a run's config: text alone, all of the decoder trained, AdamW in float32."""
        rows = self.rows * self.chips
        return {
            "model": {
                "dtype": "bfloat16",
                "remat": self.remat,
                "attention": "splash",  # as theirs
                "vision": _SMALLEST_VISION,
                "abstractor": _SMALLEST_ABSTRACTOR,
                "decoder": {
                    "width": self.width,
                    "num_layers": self.num_layers,
                    "num_heads": self.num_heads,
                    "num_kv_heads": self.num_kv_heads,
                    "mlp_dim": self.mlp_dim,
                    "vocab_size": self.vocab_size,
                    "max_length": self.length,
                    "adaptive": "none",
                },
            },
            "data": {
                "datasets": {"synthetic": {"kind": "embedded", "options": {"dataset": "facts"}}},
                "rows": rows,
                "row_length": self.length,
                "images_per_row": 0,
                "images": 0,
            },
            "train": {
                "total_steps": 1,
                "loss_chunk": 512,
                "groups": [
                    {"name": "decoder", "pattern": "decoder/.*"},
                    {"name": "unused", "pattern": ".*", "trainable": False},
                ],
            },
        }


# Never run: the batch has no images.
_SMALLEST_VISION: Final = {
    "width": 256, "num_layers": 1, "num_heads": 4, "mlp_dim": 256, "patch_size": 8, "image_size": 16,
}  # fmt: skip
_SMALLEST_ABSTRACTOR: Final = {"num_layers": 1, "num_heads": 4, "mlp_dim": 256, "num_queries": 1}

STEPS: Final[dict[str, Published]] = {
    "maxtext_32b_v5e": Published(
        "v5e:16x16", 8192, 32, 64, 64, 28672, 4, 2048, "full", "fsdp=256", 0.6686, _FULL_TABLE
    ),
    "maxtext_64b_v5e": Published(
        "v5e:16x16", 8192, 64, 64, 64, 28672, 2, 2048, "full", "fsdp=256", 0.5990, _FULL_TABLE
    ),
    "llama2_70b_v5p": Published(
        "v5p:4x4x4", 8192, 80, 64, 8, 28672, 3, 4096, "attention", "fsdp=64", 0.65,
        "MaxText, getting_started/Run_Llama2.md and configs/v5p/llama2_70b.sh",
        "3 rows of a chip and not 4, which do not fit; the context is kept and not the product after it",
    ),
}  # fmt: skip


def published(name: str) -> Published:
    """Raises `UnknownNameError` with the nearest names."""
    if name not in STEPS:
        raise unknown_name("published step", name, STEPS)
    return STEPS[name]
