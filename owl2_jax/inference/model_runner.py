"""The model on its devices: parameters, pages, image features, and the few programs that run it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.core.host_memory import collapse_into_huge_pages
from owl2_jax.inference import programs
from owl2_jax.inference.block_table import BlockTables
from owl2_jax.inference.device_memory import sizes_of
from owl2_jax.inference.engine_config import EngineConfig
from owl2_jax.inference.feature_pool import FeaturePool
from owl2_jax.inference.flat_batch import Pieces, padded
from owl2_jax.inference.images import RequestImage
from owl2_jax.inference.kv_cache import PagePool
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.packed import pack
from owl2_jax.inference.program_sizes import Sizes, StepSize
from owl2_jax.inference.sampler_rows import SamplerRows
from owl2_jax.inference.scheduler import Chunk
from owl2_jax.inference.sequence import Sequence as Running
from owl2_jax.inference.step import StepInputs
from owl2_jax.inference.unrolled import UnrolledOwl2
from owl2_jax.model import paged_kernels
from owl2_jax.parallel.axis_rules import activate
from owl2_jax.sampling.sampler import Chosen

Array = jax.Array

_MOST_COPIES = 16  # pages of one call


class ModelRunner:
    """Owns all that lies on the device; everything that asks a model stands on it.

    Attributes:
      model: what runs.
      owl, params: the module, and its parameters as it takes them.
      config, sizes: of the engine.
      pages: of the key/value cache.
      pool: which of them are in use.
      features: features of images; one seen before is not encoded again.
      rows: what running sequences ask of the sampler.
      used: name and sizes of every program that ran.
    """

    def __init__(self, model: LoadedModel, config: EngineConfig, sizes: Sizes | None = None):
        """`sizes` as `Engine` takes them."""
        self.model = model
        self.config = config
        self.sizes = sizes or sizes_of(config, model)
        self.used: set[tuple] = set()
        self.owl, self.params = programs.prepare(model)
        self.features = FeaturePool(model.config, self.sizes.features, self._encode, self.sizes.images)
        self.rows = SamplerRows(config.sequences, model.config.decoder.vocab_size, model.tokenizer.eos_id)
        self.pool = PagePool(self.sizes.pages, config.page_size)
        self._tables = BlockTables(config.sequences, self.sizes.pages_per_sequence)
        with self.on_mesh():
            head_dim = model.config.decoder.head_dim
            layout = paged_kernels.layout(jax.default_backend(), head_dim, config.page_size)
            self.pages = programs.EMPTY_PAGES(model.config, self.sizes.pages, config.page_size, layout)
            self._state = programs.EMPTY_ROWS(config.sequences, model.config.decoder.vocab_size)
        if isinstance(self.owl, UnrolledOwl2):
            collapse_into_huge_pages(jax.tree.leaves(self.pages))
        self._reading: Array | None = None  # of the images encoded last, where they were few
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
        nothing = np.zeros(0, np.int32)
        pieces = Pieces(nothing, nothing, nothing, None, nothing)
        for step_size in self.sizes.decode:
            self._run(self._inputs(step_size, [], pieces, nothing, 1))
        for step_size in self.sizes.chunks:
            self._run(self._inputs(step_size, [], pieces, nothing, 1, targets=nothing))
        self._look(
            StepSize(self.sizes.looked, 1), pieces, np.zeros((1, self.sizes.pages_per_sequence), np.int32)
        )
        self.copy_pages([])
        decoder = self.model.config.decoder
        self._load(self.config.sequences, np.full(decoder.max_length, decoder.vocab_size, np.int32), 0)
        jax.block_until_ready(self.pages)

    def run_chunks(self, chunks: Sequence[Chunk]) -> tuple[Chosen, Array, Chosen | None]:
        """Pieces of prompts.

        Returns:
          What was chosen, [S, 1], and int32[S], whether row i of it belongs to chunk i; and all
          tokens with the log-probabilities that are asked for, [T], chunk after chunk; None for none.
        """
        self.features.make_ready(image for chunk in chunks for image in chunk.images())
        count = sum(chunk.end - chunk.start for chunk in chunks)
        size = next(s for s in self.sizes.chunks if s.tokens >= count and s.rows >= len(chunks))
        pieces = self.pieces([(chunk.sequence, chunk.start, chunk.end) for chunk in chunks])
        limits = [chunk.sequence.left if chunk.last else 0 for chunk in chunks]
        targets = np.concatenate([chunk.sequence.targets(chunk.start, chunk.end) for chunk in chunks])
        sequences = [chunk.sequence for chunk in chunks]
        chosen, counts, scored = self._run(self._inputs(size, sequences, pieces, limits, 1, targets=targets))
        asked = any(one.request.prompt_logprobs for one in sequences)
        return chosen, counts, scored if asked else None

    def decode(self, sequences: Sequence[Running], ahead: Sequence[int], steps: int) -> tuple[Chosen, Array]:
        """Goes on with the newest token of every sequence.

        Args:
          ahead: 1 for a sequence whose newest token is on the device alone, 0 otherwise.
          steps: most tokens that each gets.

        Returns:
          What was chosen, [S, decode_steps], and int32[S], how many of the columns each has.
        """
        size = next(s for s in self.sizes.decode if s.rows >= len(sequences))
        more = np.array(ahead, np.int32)
        ends = np.array([one.length for one in sequences], np.int32) + more
        newest = np.array([one.tokens[one.length - 1] for one in sequences], np.int32)
        prompts = np.array([len(one.prompt) for one in sequences], np.int32)
        limits = np.array([one.left for one in sequences], np.int32) - more
        pieces = Pieces(ends - 1, ends, np.where(more, -1, newest), None, prompts)
        return self._run(self._inputs(size, sequences, pieces, limits, steps, more))[:2]

    def copy_pages(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copies pages (from, to)."""
        for start in range(0, max(len(copies), 1), _MOST_COPIES):
            part = copies[start : start + _MOST_COPIES]
            padding = [(0, self.sizes.pages)] * (_MOST_COPIES - len(part))
            sources, targets = np.array([*part, *padding], np.int32).T.copy()
            self.used.add(("copy_pages",))
            with self.on_mesh():
                self.pages = programs.COPY_PAGES(
                    self.pages, sources, targets, self.model.config.decoder.num_layers
                )

    def admit(self, sequence: Running) -> None:
        """Makes the row of a sequence ready for it."""
        self.rows.put(sequence.row, sequence.request)
        self._tables.put(sequence.row, sequence.pages, whole=True)
        if self.rows.penalized(sequence.row):
            decoder = self.model.config.decoder
            tokens = np.full(decoder.max_length, decoder.vocab_size, np.int32)
            tokens[: sequence.length] = sequence.tokens[: sequence.length]
            self._load(sequence.row, tokens, len(sequence.prompt))

    def borrow(self, sequence: Running) -> None:
        """Gives a sequence the row that is nobody's, with nothing in it of who had it before."""
        sequence.row = self.config.sequences
        self._tables.put(sequence.row, sequence.pages, whole=True)

    def _load(self, row: int, tokens: np.ndarray, prompt_length: int) -> None:
        self.used.add(("load_row",))
        with self.on_mesh():
            sampler = programs.LOAD_ROW(self._state.sampler, np.int32(row), tokens, np.int32(prompt_length))
        self._state = self._state.replace(sampler=sampler)

    def _encode(self, pool: Any, images: np.ndarray, rows: np.ndarray) -> Array:
        count = images.shape[0]
        self.used.add(("encode_images", count, images.dtype.str))
        with self.on_mesh():
            pool, reading = programs.ENCODE_IMAGES(
                self.owl, count == self.sizes.images[0], self.params, pool, images, rows
            )
        self._reading = self._reading if reading is None else reading
        return pool

    def reading(self, image: RequestImage) -> np.ndarray:
        """How the queries read an image: float32[Q, P], mean over layers and heads, sum 1."""
        count = self.sizes.images[0]
        images = np.stack([image.pixels()] * count)
        nowhere = np.full(count, self.features.rows, np.int32)
        self.features.array = self._encode(self.features.array, images, nowhere)
        return np.asarray(self._reading)[0]

    def look(self, sequence: Running, start: int, end: int) -> tuple[np.ndarray, float]:
        """Runs positions of a sequence and tells what they pay attention to; see `programs.look`."""
        size = StepSize(self.sizes.looked, 1)
        pieces = self.pieces([(sequence, start, end)])
        table = padded(sequence.pages, self.sizes.pages_per_sequence)[None]
        attention, error = self._look(size, pieces, table)
        return np.asarray(attention)[:, : end - start], float(error)

    def _look(self, size: StepSize, pieces: Pieces, table: np.ndarray) -> tuple[Array, Array]:
        self.used.add(("look",))
        features = () if pieces.features is None else pieces.features
        with self.on_mesh():
            self.pages, attention, error = programs.LOOK(
                self.owl, self.params, self.pages, self.features.array, padded(pieces.tokens, size.tokens),
                padded(features, size.tokens, -1), pieces.batch(size, table),
            )  # fmt: skip
        return attention, error

    def _run(self, inputs: StepInputs) -> tuple[Chosen, Array, Chosen | None]:
        tokens, rows = len(inputs.tokens), len(inputs.limits)
        self.used.add(("step", tokens, rows, inputs.targets is None))
        large = self._large(inputs.sampler.rows)
        buffer, layout = pack(inputs)
        with self.on_mesh():
            self.pages, self._state, chosen, counts, scored = programs.step_program(jax.devices()[0])(
                self.owl, self.config.decode_steps, layout, self.params, self.pages, self._state,
                self.features.array, buffer, large,
            )  # fmt: skip
        return chosen, counts, scored

    def _large(self, rows: np.ndarray) -> dict[str, Any]:
        """The large inputs: those of the host when some row asks for them, else the same as last time."""
        asked = self.rows.large(rows)
        if asked is not None:
            return asked
        if len(rows) not in self._unasked:
            with self.on_mesh():
                self._unasked[len(rows)] = jax.tree.map(jnp.asarray, self.rows.unasked(len(rows)))
        return self._unasked[len(rows)]

    # Inputs ------------------------------------------------------------------

    def features_of(self, sequence: Running, start: int, end: int) -> np.ndarray:
        """Rows of features of the positions of a sequence: int32[n], -1 for text."""
        prompt = sequence.prompt
        features = np.full(end - start, -1, np.int32)
        for at, image in zip(prompt.image_starts, prompt.images, strict=True):
            first, last = max(at, start), min(at + prompt.span, end)
            if first < last:
                row = self.features.row(image) * prompt.span
                features[first - start : last - start] = np.arange(row + first - at, row + last - at)
        return features

    def pieces(self, chunks: Sequence[tuple[Running, int, int]]) -> Pieces:
        """Positions `start` to `end` of sequences, whose images were made ready."""
        return Pieces(
            starts=np.array([start for _, start, _ in chunks], np.int32),
            ends=np.array([end for _, _, end in chunks], np.int32),
            tokens=np.concatenate([one.tokens[start:end] for one, start, end in chunks]),
            features=np.concatenate([self.features_of(*chunk) for chunk in chunks]),
            prompt_lengths=np.array([len(one.prompt) for one, _, _ in chunks], np.int32),
        )

    def _inputs(
        self,
        size: StepSize,
        sequences: Sequence[Running],
        pieces: Pieces,
        limits: Sequence[int] | np.ndarray,
        steps: int,
        ahead: np.ndarray | int = 0,
        targets: np.ndarray | None = None,
    ) -> StepInputs:
        """One piece of each sequence as a flat batch, padded."""
        of_device = np.array([one.row for one in sequences], np.int32)
        for one in sequences:
            self._tables.put(one.row, one.pages)
        rows = padded(of_device, size.rows, self.config.sequences)
        generated = np.array([one.generated for one in sequences], np.int32) + ahead
        features = () if pieces.features is None else pieces.features
        return StepInputs(
            tokens=padded(pieces.tokens, size.tokens),
            feature_rows=None if targets is None else padded(features, size.tokens, -1),
            batch=pieces.batch(size, self._tables.array[rows]),
            limits=padded(limits, size.rows),
            steps=np.array([steps], np.int32),
            sampler=self.rows.take(rows, padded(generated, size.rows)),
            targets=None if targets is None else padded(targets, size.tokens, -1),
        )

    @contextlib.contextmanager
    def on_mesh(self) -> Iterator[None]:
        """What has to hold while a program is traced."""
        mesh = contextlib.nullcontext() if self.model.mesh is None else activate(self.model.mesh)
        with mesh:
            yield
