"""Building blocks: linear maps over named axes, norms, activations, positions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from owl2_jax.core import axes
from owl2_jax.model.config import Owl2Config

Array = jax.Array
Initializer = nn.initializers.Initializer

# Eps of the three norms around the abstractor's attention; no config changes it.
ABSTRACTOR_NORM_EPS = 1e-5

# Beside a kernel of integers: what an output of theirs is multiplied by.
KERNEL_SCALE = "kernel_scale"


def partitioned(init: Initializer, axes: Sequence[str]) -> Initializer:
    """Attaches one logical axis name per dimension to what `init` makes."""
    return nn.with_logical_partitioning(init, tuple(axes))


def fan_in_normal(num_in_axes: int) -> Initializer:
    """Normal with standard deviation fan_in**-0.5; the first `num_in_axes` axes are the input."""

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike) -> Array:
        fan_in = int(np.prod(shape[:num_in_axes]))
        return jax.random.normal(key, tuple(shape), dtype) * jnp.asarray(fan_in**-0.5, dtype)

    return init


def gather_weight(weight: Array, names: tuple[str | None, ...]) -> Array:
    """A stored weight as a layer uses it; its gradient goes back to where the weight is stored.

    Said at the weight itself, because what the compiler infers from the
    activations around it changes from mesh to mesh. Without sharding rules
    this is the weight.

    Args:
      weight: in the dtype of the computation, so that the gathered bytes are those.
      names: one logical axis name per dimension.
    """
    return _gather_weight(weight, names) if nn.get_logical_axis_rules() else weight


def pieces(names: tuple[str | None, ...]) -> int:
    """In how many pieces the mesh cuts an array with these logical axes; 1 without sharding rules."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules():
        return 1
    parts = nn.logical_to_mesh_axes(names)
    return math.prod(
        mesh.shape[name] for part in parts for name in ((part,) if isinstance(part, str) else part or ())
    )


def is_gathered(names: tuple[str | None, ...]) -> bool:
    """Whether a weight with these axes is stored in more pieces than a layer uses it in."""
    return pieces(axes.stored(names)) > pieces(names)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather_weight(weight: Array, names: tuple[str | None, ...]) -> Array:
    return nn.with_logical_constraint(weight, names)


def _gather_forward(weight: Array, names: tuple[str | None, ...]) -> tuple[Array, None]:
    return _gather_weight(weight, names), None


def _gather_backward(names: tuple[str | None, ...], _: None, gradient: Array) -> tuple[Array]:
    return (nn.with_logical_constraint(gradient, axes.stored(names)),)


_gather_weight.defvjp(_gather_forward, _gather_backward)


def random_integers(key: Array, shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Integers from -127 to 127; with scales of `3**0.5 / 127 * std` they have that standard deviation."""
    return jax.random.randint(key, tuple(shape), -127, 128, dtype)


class Linear(nn.Module):
    """`y = x @ kernel (+ bias)`, contracting the trailing axes of x.

    Where a `kernel_scale` (float32, of `out_shape`) stands beside the kernel, the
    kernel holds integers, and the product is multiplied by it.

    Attributes:
      in_shape, out_shape: sizes of the contracted and the new axes.
      in_axes, out_axes: their logical names.
      use_bias: add a bias of `out_shape`.
      dtype, param_dtype: of the product and of the stored parameters.
      int8: make the kernel of integers, for a base that does not train.
      kernel_init: starting values of the kernel; None for `fan_in_normal`.
      bias_init: starting values of the bias.
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    in_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    int8: bool = False
    kernel_init: Initializer | None = None
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """dtype[..., *in_shape] to dtype[..., *out_shape]."""
        # One plain matrix product over flat rows: the gradient of a product with several
        # contracted axes costs twice as much on a CPU, and other devices do not mind.
        rows = x.shape[: x.ndim - len(self.in_shape)]
        flat = x.astype(self.dtype).reshape(-1, math.prod(self.in_shape))
        y = self._product(flat).reshape(*rows, math.prod(self.out_shape))
        # Before heads come apart, which an attention kernel may take side by side.
        y = y + self._bias().reshape(-1) if self.use_bias else y
        return y.reshape(*rows, *self.out_shape)

    def _product(self, flat: Array) -> Array:
        """dtype[rows, fan_in] to dtype[rows, fan_out], without the bias."""
        kernel, scale = self._weights()
        y = flat @ kernel.reshape(flat.shape[-1], -1)
        return y if scale is None else y * scale.reshape(-1)

    def _weights(self) -> tuple[Array, Array | None]:
        """The kernel as it is multiplied, dtype[*in_shape, *out_shape] or both flat, and its scales.

        The scales are dtype[*out_shape], and None without integers.
        """
        kernel, scale = self._stored_weights()
        return self._gathered(kernel, self.out_axes), scale

    def _stored_weights(self) -> tuple[Array, Array | None]:
        """The kernel as it lies in memory, [*in_shape, *out_shape], and its scales dtype[*out_shape]."""
        start = self.kernel_init or fan_in_normal(len(self.in_shape))
        kernel = self.param(
            "kernel",
            partitioned(random_integers if self.int8 else start, self.in_axes + self.out_axes),
            self.in_shape + self.out_shape,
            jnp.int8 if self.int8 else self.param_dtype,
        )
        # Integers are gathered as they are, which moves half the bytes.
        kernel = kernel if self.int8 else kernel.astype(self.dtype)
        if self.int8 or self.has_variable("params", KERNEL_SCALE):
            return kernel, self._scale(math.prod(self.in_shape)).astype(self.dtype)
        return kernel, None

    def _gathered(self, kernel: Array, out_axes: tuple[str, ...]) -> Array:
        """A kernel [*in_shape, ...], or some of its outputs, in the dtype and place of the product."""
        names = self.in_axes + out_axes
        if len(names) > 2 and is_gathered(names):
            # In pieces, a matrix of heads takes nothing to flatten; gathered, a copy of it.
            kernel = lax.optimization_barrier(kernel.reshape(math.prod(self.in_shape), -1))
            names = (self.in_axes[0], out_axes[0])
        return gather_weight(kernel, names).astype(self.dtype)

    def _bias(self) -> Array:
        start = partitioned(self.bias_init, self.out_axes)
        return self.param("bias", start, self.out_shape, self.param_dtype).astype(self.dtype)

    def _scale(self, fan_in: int) -> Array:
        """The scales of an integer kernel, float32[*out_shape]."""
        size = (3 / fan_in) ** 0.5 / 127
        init = partitioned(nn.initializers.constant(size), self.out_axes)
        return self.param(KERNEL_SCALE, init, self.out_shape, jnp.float32)


def biased_linear(config: Owl2Config, kind: type[Linear] = Linear) -> Callable[..., Linear]:
    """`Linear` with a bias and in the model's dtypes, as both towers that see use it."""
    return functools.partial(kind, use_bias=True, dtype=config.dtype, param_dtype=config.param_dtype)


def at_least_float32(dtype: DTypeLike) -> DTypeLike:
    """The dtype of norms, softmax and logits: float32, or float64 where everything is computed in that."""
    return jnp.promote_types(dtype, jnp.float32)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, computed in float32 at least, returned in x's dtype.

    Flax's own folds the scale into the reciprocal root and so rounds otherwise: a run that goes on
    would not end in the bits of one that was never stopped by an update.
    """

    width: int
    eps: float
    axis: str
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """dtype[..., width] to the same shape."""
        ones, zeros = (
            partitioned(init, (self.axis,)) for init in (nn.initializers.ones, nn.initializers.zeros)
        )
        scale = self.param("scale", ones, (self.width,), self.param_dtype)
        bias = self.param("bias", zeros, (self.width,), self.param_dtype)
        wide = x.astype(at_least_float32(x.dtype))
        centred = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        normed = centred * lax.rsqrt(variance + self.eps)
        return (normed * scale + bias).astype(x.dtype)


class Scale(nn.Module):
    """The learned scale of an RMSNorm, apart from the normalisation so that two can share one."""

    width: int
    axis: str
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self) -> Array:
        """Returns the scale, param_dtype[width]."""
        ones = partitioned(nn.initializers.ones, (self.axis,))
        return self.param("scale", ones, (self.width,), self.param_dtype)


def rms_normalize(x: Array, eps: float) -> Array:
    """x divided by its root mean square over the last axis; float32 at least, of x's shape."""
    wide = x.astype(at_least_float32(x.dtype))
    return wide * lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + eps)


def side_by_side(x: Array) -> Array:
    """Heads x[..., N, H] as x[..., N * H]."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def quick_gelu(x: Array) -> Array:
    """CLIP's activation, `x * sigmoid(1.702 x)`."""
    return x * nn.sigmoid(1.702 * x)


def sincos_1d(index: np.ndarray, width: int) -> np.ndarray:
    """[sin, cos] of `index / 10000**(i / (width / 2))`, float32[len(index), width]."""
    frequencies = 10000.0 ** -(np.arange(width // 2, dtype=np.float64) / (width / 2))
    angles = np.asarray(index, np.float64)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def sincos_2d(grid_size: int, width: int) -> np.ndarray:
    """2-D table of a patch grid with a zero row in front for the class token.

    Returns:
      float32[grid_size**2 + 1, width]: first half of the channels from the
      column index, second half from the row index.
    """
    rows, columns = np.meshgrid(np.arange(grid_size), np.arange(grid_size), indexing="ij")
    table = np.concatenate(
        [sincos_1d(columns.ravel(), width // 2), sincos_1d(rows.ravel(), width // 2)], axis=1
    )
    return np.concatenate([np.zeros((1, width), np.float32), table])
