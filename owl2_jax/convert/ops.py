"""Invertible operations between our tensors and PyTorch's.

PyTorch keeps a linear weight as [out, in], flat on both sides; ours is
[in..., out...] with heads and parts as axes of their own. Every operation only
moves values, so that both directions are exact.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import numpy as np

from owl2_jax.core.overriding import override

Shape = tuple[int, ...]


_BLOCK = 32  # rows moved at a time, so that reads and writes both stay in cache


def transposed(matrix: np.ndarray) -> np.ndarray:
    """A contiguous copy of `matrix.T`, several times as fast as numpy's own."""
    bits = matrix.view(f"u{matrix.dtype.itemsize}")  # numpy moves integers faster than bfloat16
    out = np.empty(bits.shape[::-1], bits.dtype)
    for start in range(0, bits.shape[0], _BLOCK):
        out[:, start : start + _BLOCK] = bits[start : start + _BLOCK].T
    return out.view(matrix.dtype)


@dataclass(frozen=True)
class Op(abc.ABC):
    """Base of the operations on one tensor (of one layer)."""

    @abc.abstractmethod
    def their_shape(self, shape: Shape) -> Shape:
        """Shape of their tensor for our tensor of `shape`."""

    @abc.abstractmethod
    def to_ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        """Their tensor as ours of `shape`; may be a view."""

    @abc.abstractmethod
    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        """Our tensor as theirs; may be a view."""


@dataclass(frozen=True)
class Same(Op):
    """The same values in the same order; theirs has `ones` leading axes of size 1."""

    ones: int = 0

    @override
    def their_shape(self, shape: Shape) -> Shape:
        return (1,) * self.ones + shape

    @override
    def to_ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        return theirs.reshape(shape)

    @override
    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        return ours.reshape(self.their_shape(ours.shape))


@dataclass(frozen=True)
class Flat(Op):
    """A bias: theirs is one vector, ours keeps heads (and parts) as axes."""

    @override
    def their_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    @override
    def to_ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        return theirs.reshape(shape)

    @override
    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        return ours.reshape(-1)


@dataclass(frozen=True)
class Linear(Op):
    """A matrix: theirs [out, in], ours [in..., out...] with `in_axes` input axes."""

    in_axes: int = 1

    @override
    def their_shape(self, shape: Shape) -> Shape:
        return math.prod(shape[self.in_axes :]), math.prod(shape[: self.in_axes])

    @override
    def to_ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        return transposed(theirs).reshape(shape)

    @override
    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        rows, columns = self.their_shape(ours.shape)
        return transposed(ours.reshape(columns, rows))


@dataclass(frozen=True)
class Convolution(Op):
    """A patch convolution: theirs [E, 3, p, p], ours [p, p, 3, E]."""

    @override
    def their_shape(self, shape: Shape) -> Shape:
        height, width, channels, out = shape
        return out, channels, height, width

    @override
    def to_ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        return theirs.transpose(2, 3, 1, 0).reshape(shape)

    @override
    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        return ours.transpose(3, 2, 0, 1)


@dataclass(frozen=True)
class QkvPart(Op):
    """One of three separate projections inside our fused one (part axis before the last).

    Ours is kernel [E, N, 3, H] or bias [N, 3, H]; theirs is [N * H, E] or
    [N * H]. `to_ours` gives the slice [..., part, :], which has shape
    [E, N, H] or [N, H].
    """

    part: int

    @override
    def their_shape(self, shape: Shape) -> Shape:
        *inputs, heads, _, width = shape
        return (heads * width, *inputs)

    @override
    def to_ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        *inputs, heads, _, width = shape
        return theirs.T.reshape(*inputs, heads, width)

    @override
    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        part = ours[..., self.part, :]
        return part.reshape(*part.shape[:-2], -1).T
