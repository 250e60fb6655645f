"""The model on its devices: parameters, pages, image features, and the few programs that run it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.core.host_memory import collapse_into_huge_pages
from owl2_jax.inference.block_table import BlockTables
from owl2_jax.inference.device_memory import sizes_of
from owl2_jax.inference.images import FeaturePool
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.inference.packed import Layout, pack, unpack
from owl2_jax.inference.program_sizes import StepSize
from owl2_jax.inference.sampler import Chosen, load_row
from owl2_jax.inference.sampler_rows import SamplerRows
from owl2_jax.inference.scheduler import Chunk
from owl2_jax.inference.sequence import Sequence as Running
from owl2_jax.inference.sizes import EngineConfig
from owl2_jax.inference.step import RowState, StepInputs, empty_rows, encode_images, step
from owl2_jax.inference.unrolled import UnrolledOwl2, unstack_layers
from owl2_jax.model import paged_kernels
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.pages import PagedBatch, Pages, copy_pages, empty_pages
from owl2_jax.parallel.axis_rules import activate

Array = jax.Array

_MOST_COPIES = 16  # pages of one call


def _packed_step(
    owl: Owl2, width: int, layout: Layout, params: Any, pages: Pages, state: RowState, pool: Array,
    buffer: Array, large: dict[str, Array],
) -> tuple[Pages, RowState, Chosen, Array]:  # fmt: skip
    """`step.step` with its small inputs in one buffer."""
    inputs = unpack(buffer, layout)
    inputs = inputs.replace(sampler=inputs.sampler.replace(**large))
    return step(owl, width, params, pages, state, pool, inputs)


# Shared by all runners of a process, so that a second one of a model compiles nothing.
_step = jax.jit(_packed_step, static_argnums=(0, 1, 2), donate_argnums=(4, 5))
_encode_images = jax.jit(encode_images, static_argnums=0, donate_argnums=2)
_copy_pages = jax.jit(copy_pages, static_argnums=3, donate_argnums=0)
_load_row = jax.jit(load_row, donate_argnums=0)
_empty_pages = jax.jit(empty_pages, static_argnums=(0, 1, 2, 3))
_empty_rows = jax.jit(empty_rows, static_argnums=(0, 1))

# Of the sampler's inputs, those that are large and nearly always the same.
_LARGE = ("bias_ids", "bias", "allowed")


class ModelRunner:
    """Owns all that lies on the device; everything that asks a model stands on it.

    Attributes:
      model: what runs.
      owl, params: the module, and its parameters as it takes them.
      config, sizes: of the engine.
      pages: of the key/value cache.
      features: features of images; one seen before is not encoded again.
      rows: what running sequences ask of the sampler.
      used: name and sizes of every program that ran.
    """

    def __init__(self, model: LoadedModel, config: EngineConfig):
        self.model = model
        self.config = config
        self.sizes = sizes_of(config, model)
        self.used: set[tuple] = set()
        self.owl, self.params = prepare(model)
        self.features = FeaturePool(model.config, self.sizes.features, self._encode, self.sizes.images)
        self.rows = SamplerRows(config.sequences, model.config.decoder.vocab_size, model.tokenizer.eos_id)
        self._tables = BlockTables(config.sequences, self.sizes.pages_per_sequence)
        with self.on_mesh():
            head_dim = model.config.decoder.head_dim
            layout = paged_kernels.layout(jax.default_backend(), head_dim, config.page_size)
            self.pages = _empty_pages(model.config, self.sizes.pages, config.page_size, layout)
            self._state = _empty_rows(config.sequences, model.config.decoder.vocab_size)
        if isinstance(self.owl, UnrolledOwl2):
            collapse_into_huge_pages(jax.tree.leaves(self.pages))
        self._unasked: dict[int, dict[str, Array]] = {}  # large inputs of rows that ask for nothing

    # Programs ----------------------------------------------------------------

    def compile(self) -> None:
        """Runs every program on nothing: none is compiled later.

        On a mesh they run twice, since a program's results lie otherwise on the devices than the
        arrays that it first saw, which makes another program of it.
        """
        for _ in range(2 if self.model.mesh else 1):
            self._run_all()

    def _run_all(self) -> None:
        size = self.model.config.vision.image_size
        for count in self.sizes.images:
            images = np.zeros((count, size, size, 3), np.uint8)
            self.features.array = self._encode(
                self.features.array, images, np.full(count, self.features.rows, np.int32)
            )
        for step_size in dict.fromkeys((*self.sizes.decode, *self.sizes.chunks)):
            self._run(self._inputs(step_size, [], [], [], 1))
        self.copy_pages([])
        nothing = np.full(
            self.model.config.decoder.max_length, self.model.config.decoder.vocab_size, np.int32
        )
        self._load(self.config.sequences, nothing, 0)
        jax.block_until_ready(self.pages)

    def run_chunks(self, chunks: Sequence[Chunk]) -> Chosen:
        """Pieces of prompts; row i of what was chosen, [S, ...], belongs to chunk i if it is the last."""
        self.features.make_ready(image for chunk in chunks for image in chunk.images())
        count = sum(chunk.end - chunk.start for chunk in chunks)
        size = next(s for s in self.sizes.chunks if s.tokens >= count and s.rows >= len(chunks))
        pieces = [(chunk.sequence, chunk.start, chunk.end) for chunk in chunks]
        limits = [chunk.sequence.left if chunk.last else 0 for chunk in chunks]
        tokens = [self._piece(*piece) for piece in pieces]
        return self._run(self._inputs(size, pieces, tokens, limits, 1))[0]

    def decode(self, sequences: Sequence[Running], ahead: Sequence[int], steps: int) -> tuple[Chosen, Array]:
        """Goes on with the newest token of every sequence.

        Args:
          ahead: 1 for a sequence whose newest token is on the device alone, 0 otherwise.
          steps: most tokens that each gets.

        Returns:
          What was chosen, [S, decode_steps], and int32[S], how many of the columns each has.
        """
        size = next(s for s in self.sizes.decode if s.rows >= len(sequences))
        pieces = [
            (one, one.length - 1 + more, one.length + more)
            for one, more in zip(sequences, ahead, strict=True)
        ]
        tokens = [
            (np.array([-1 if more else one.tokens[one.length - 1]], np.int32), None)
            for one, more in zip(sequences, ahead, strict=True)
        ]
        limits = [one.left - more for one, more in zip(sequences, ahead, strict=True)]
        return self._run(self._inputs(size, pieces, tokens, limits, steps, ahead))

    def copy_pages(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copies pages (from, to)."""
        for start in range(0, max(len(copies), 1), _MOST_COPIES):
            part = copies[start : start + _MOST_COPIES]
            padding = [(0, self.sizes.pages)] * (_MOST_COPIES - len(part))
            sources, targets = np.array([*part, *padding], np.int32).T.copy()
            self.used.add(("copy_pages",))
            with self.on_mesh():
                self.pages = _copy_pages(self.pages, sources, targets, self.model.config.decoder.num_layers)

    def admit(self, sequence: Running) -> None:
        """Makes the row of a sequence ready for it."""
        self.rows.put(sequence.row, sequence.request)
        self._tables.put(sequence.row, sequence.pages, anew=True)
        if self.rows.penalized(sequence.row):
            decoder = self.model.config.decoder
            tokens = np.full(decoder.max_length, decoder.vocab_size, np.int32)
            tokens[: sequence.length] = sequence.tokens[: sequence.length]
            self._load(sequence.row, tokens, len(sequence.prompt))

    def _load(self, row: int, tokens: np.ndarray, prompt_length: int) -> None:
        self.used.add(("load_row",))
        with self.on_mesh():
            sampler = _load_row(self._state.sampler, np.int32(row), tokens, np.int32(prompt_length))
        self._state = self._state.replace(sampler=sampler)

    def _encode(self, pool: Any, images: np.ndarray, rows: np.ndarray) -> Array:
        self.used.add(("encode_images", images.shape[0], images.dtype.str))
        with self.on_mesh():
            return _encode_images(self.owl, self.params, pool, images, rows)

    def _run(self, inputs: StepInputs) -> tuple[Chosen, Array]:
        tokens, rows = len(inputs.tokens), len(inputs.limits)
        self.used.add(("step", tokens, rows))
        large = self._large(inputs)
        sampler = inputs.sampler.replace(**dict.fromkeys(_LARGE))
        buffer, layout = pack(inputs.replace(sampler=sampler))
        with self.on_mesh():
            self.pages, self._state, chosen, counts = _step(
                self.owl, self.config.decode_steps, layout, self.params, self.pages, self._state,
                self.features.array, buffer, large,
            )  # fmt: skip
        return chosen, counts

    def _large(self, inputs: StepInputs) -> dict[str, Any]:
        """The large inputs: those of the host when some row asks for them, else the same as last time."""
        sampler, rows = inputs.sampler, len(inputs.limits)
        vocabulary = self.model.config.decoder.vocab_size
        if sampler.masked.any() or (sampler.bias_ids[:, 0] < vocabulary).any():
            return {name: getattr(sampler, name) for name in _LARGE}
        if rows not in self._unasked:
            with self.on_mesh():
                self._unasked[rows] = {name: jnp.asarray(getattr(sampler, name)) for name in _LARGE}
        return self._unasked[rows]

    # Inputs ------------------------------------------------------------------

    def _piece(self, sequence: Running, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and rows of features, int32[n] each, of a piece of a sequence."""
        prompt = sequence.prompt
        features = np.full(end - start, -1, np.int32)
        for at, image in zip(prompt.image_starts, prompt.images, strict=True):
            first, last = max(at, start), min(at + prompt.span, end)
            if first < last:
                row = self.features.row(image) * prompt.span
                features[first - start : last - start] = np.arange(row + first - at, row + last - at)
        return sequence.tokens[start:end], features

    def _inputs(
        self,
        size: StepSize,
        pieces: Sequence[tuple[Running, int, int]],
        tokens: Sequence[tuple[np.ndarray, np.ndarray | None]],
        limits: Sequence[int],
        steps: int,
        ahead: Sequence[int] = (),
    ) -> StepInputs:
        """Pieces (sequence, start, end) as a flat batch, padded."""
        counts = [end - start for _, start, end in pieces]
        total, rows = sum(counts), len(pieces)
        of_device = np.array([one.row for one, _, _ in pieces], np.int32)
        for one, _, _ in pieces:
            self._tables.put(one.row, one.pages)
        padded = np.full(size.rows, self.config.sequences, np.int32)
        padded[:rows] = of_device
        flat = np.zeros(size.tokens, np.int32)
        features = np.full(size.tokens, -1, np.int32)
        positions = np.zeros(size.tokens, np.int32)
        starts = np.full(size.rows + 1, total, np.int32)
        starts[: rows + 1] = np.cumsum([0, *counts])
        for number, (_, start, end) in enumerate(pieces):
            part = slice(starts[number], starts[number + 1])
            flat[part], found = tokens[number]
            positions[part] = np.arange(start, end)
            if found is not None:
                features[part] = found
        of_token = np.full(size.tokens, size.rows, np.int32)
        of_token[:total] = np.repeat(np.arange(rows), counts)
        generated = np.array([one.generated for one, _, _ in pieces], np.int32)
        if len(ahead):
            generated += np.array(ahead, np.int32)
        return StepInputs(
            tokens=flat,
            feature_rows=features,
            batch=PagedBatch(
                rows=of_token,
                positions=positions,
                block_tables=self._tables.array[padded],
                starts=starts,
                lengths=_padded([end for _, _, end in pieces], size.rows),
                count=np.array([rows], np.int32),
                prompt_lengths=_padded([len(one.prompt) for one, _, _ in pieces], size.rows),
            ),
            limits=_padded(limits, size.rows),
            steps=np.array([steps], np.int32),
            sampler=self.rows.take(of_device, generated, size.rows),
        )

    @contextlib.contextmanager
    def on_mesh(self) -> Iterator[None]:
        """What has to hold while a program is traced."""
        mesh = contextlib.nullcontext() if self.model.mesh is None else activate(self.model.mesh)
        with mesh:
            yield


def _padded(values: Sequence[int], size: int) -> np.ndarray:
    """int32[size] with zeros behind."""
    array = np.zeros(size, np.int32)
    array[: len(values)] = values
    return array


def prepare(model: LoadedModel) -> tuple[Owl2, dict[str, Any]]:
    """The module to run and its parameters.

    On a CPU the layers are taken apart: a step of the layer scan copies the
    weights that it slices, which costs a third of a decode step there.
    """
    config, pieces = model.config.replace(remat="none"), model.tokenizer.vocab_size
    if model.mesh is None and jax.default_backend() == "cpu":
        params = jax.tree.map(jnp.asarray, unstack_layers(model.params))
        collapse_into_huge_pages(jax.tree.leaves(params))
        return UnrolledOwl2(config, pieces), params
    return Owl2(config, pieces), model.params
