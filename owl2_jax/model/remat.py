"""What the backward pass keeps and what it computes again, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import jax
from flax import linen as nn

from owl2_jax.core.errors import unknown_name

# Names given to activations with `jax.ad_checkpoint.checkpoint_name`.
PROJECTIONS: Final = "projections"  # queries, keys and values as the attention kernel takes them
# output of attention before its output projection, and what its backward kernels need
CONTEXT: Final = "context"
MLP_HIDDEN: Final = "mlp_hidden"  # gated hidden activation of the MLP

_policies = jax.checkpoint_policies

# None: keep everything. Ordered from most memory to least.
POLICIES: Final[dict[str, Callable[..., bool] | None]] = {
    "none": None,
    "products": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable,
        _policies.save_only_these_names(PROJECTIONS, CONTEXT),
    ),
    "dots": _policies.dots_with_no_batch_dims_saveable,
    "attention_mlp": _policies.save_only_these_names(PROJECTIONS, CONTEXT, MLP_HIDDEN),
    "attention": _policies.save_only_these_names(PROJECTIONS, CONTEXT),
    "context": _policies.save_only_these_names(CONTEXT),
    "full": _policies.nothing_saveable,
}


def policy(name: str) -> Callable[..., bool] | None:
    """Raises `UnknownNameError` with the nearest names."""
    if name not in POLICIES:
        raise unknown_name("remat policy", name, POLICIES)
    return POLICIES[name]


def remat_block(block: type[nn.Module], name: str) -> type[nn.Module]:
    """Wraps a block class so that its backward pass follows the named policy."""
    chosen = policy(name)
    # Inside a scan XLA cannot merge the recomputation with the forward pass anyway.
    return block if chosen is None else nn.remat(block, policy=chosen, prevent_cse=False)
