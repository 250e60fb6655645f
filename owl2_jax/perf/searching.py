"""The search of `owl2 fit --search`: what runs fastest by the forecast, remembered from call to call.

First every remat policy with ever more rows at a time, until it does not fit;
then, from the best of them, one change after the other that makes it faster: how tokens
of images are taken and put back, logits at a time, options of the compiler, tiles of
splash attention, mesh, layers per iteration.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from owl2_jax.core.append_file import AppendFile
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import json_lines
from owl2_jax.model import remat
from owl2_jax.parallel import mesh as meshes
from owl2_jax.parallel.chips import fusion_options
from owl2_jax.parallel.shardings import batch_ways
from owl2_jax.perf.fitting import Plan, Result, describe
from owl2_jax.perf.tpu_compile import topology_devices
from owl2_jax.perf.versions import Versions

# Sets of compiler options that are worth a try, on all generations.
OPTIONS: Final[tuple[dict[str, str], ...]] = (
    {"xla_tpu_scoped_vmem_limit_kib": "16384"},
    {"xla_tpu_scoped_vmem_limit_kib": "24576"},
    {"xla_tpu_scoped_vmem_limit_kib": "32768"},
    {"xla_tpu_scoped_vmem_limit_kib": "65536"},
    {"xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter": "true"},
    {"xla_tpu_enable_latency_hiding_scheduler": "true", "xla_latency_hiding_scheduler_rerun": "2"},
    {"xla_tpu_enable_async_collective_fusion_multiple_steps": "false"},
    # Kernels carry collectives as products do.
    {"xla_tpu_enable_async_collective_fusion_with_mosaic_custom_call": "true"},
)
_TILES: Final = (256, 512, 1024)
_CHUNKS: Final = (0, 512)  # positions with logits at a time; 0: all
_UNROLL: Final = (2,)
_TENSOR: Final = (2, 4)


@dataclass(frozen=True)
class Attempt:
    """One program that was compiled, now or by an earlier call.

    Attributes:
      words: what it is.
      lines: the config lines that make it.
      seconds: of its step by the forecast; None where it does not fit.
      per_row: seconds over rows, what attempts are ranked by.
      needed: bytes of memory. mfu: by the forecast.
      result: None for one of an earlier call.
    """

    words: str
    lines: tuple[str, ...]
    seconds: float | None
    per_row: float | None
    needed: float
    mfu: float | None
    result: Result | None = None

    @property
    def rank(self) -> tuple[bool, float]:
        """Smaller is better."""
        return (True, self.needed) if self.per_row is None else (False, self.per_row)


class Memory:
    """Attempts of earlier calls, in a file of JSON lines; without a file those of this call."""

    def __init__(self, path: Path | None, versions: Versions | None) -> None:
        self._path = path
        self._versions = str(versions)
        self._known: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            for number, row in json_lines(path):
                if not _is_attempt(row):
                    raise Owl2Error(
                        f"--tried {path}, line {number}: no attempt of a search; name a file that --search "
                        "wrote, or a new one"
                    )
                self._known[row["key"]] = row

    def get(self, plan: Plan) -> Attempt | None:
        """What came of a plan, None where it was not tried."""
        row = self._known.get(self._key(plan))
        if row is None:
            return None
        names = ("words", "seconds", "per_row", "needed", "mfu")
        return Attempt(lines=tuple(row["lines"]), **{name: row[name] for name in names})

    def put(self, plan: Plan, attempt: Attempt) -> None:
        """Keeps what came of a plan, in the file too where there is one."""
        row = {field.name: getattr(attempt, field.name) for field in dataclasses.fields(attempt)}
        row = {"key": self._key(plan), **row, "lines": list(attempt.lines)}
        del row["result"]
        self._known[row["key"]] = row
        if self._path is not None:
            with AppendFile(self._path) as file:
                file.write_json(row)

    def _key(self, plan: Plan) -> str:
        """All that the compiled program depends on."""
        shape = dataclasses.asdict(plan.shape)
        del shape["shards"]
        parts = {
            "what": plan.what,
            "model": plan.model.to_dict(),
            "train": dataclasses.asdict(plan.train) | {"images_beside": plan.images_beside},
            "shape": shape,
            "mesh": dict(plan.mesh.shape),
            "topology": plan.topology.name,
            "versions": self._versions,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:20]


def _is_attempt(row: object) -> bool:
    """Whether a line of the file is one of `put`."""
    names = {field.name for field in dataclasses.fields(Attempt)} - {"result"} | {"key"}
    return isinstance(row, dict) and names <= set(row)


def search(plan: Plan, measure: Callable[[Plan], Result], memory: Memory) -> list[Attempt]:
    """All attempts, in the order in which they were made."""
    tried: dict[str, tuple[Plan, Attempt]] = {}

    def attempt(candidate: Plan, is_change: bool = False) -> Attempt | None:
        words = describe(candidate)
        if words not in tried:
            known = memory.get(candidate)
            print(f"{'remembered' if known else 'compiling'} {words}", file=sys.stderr, flush=True)
            if known is None:
                try:
                    result = measure(candidate)
                except Owl2Error as error:
                    if not is_change:
                        raise
                    # Heads that a mesh does not divide, or an option that the compiler fails over.
                    print(f"left out {words}: {error}", file=sys.stderr, flush=True)
                    return None
                known = _attempt(result)
                memory.put(candidate, known)
            tried[words] = (candidate, known)
        return tried[words][1]

    for family in _families(plan):
        for candidate in family:
            made = attempt(candidate)
            if made is None or made.seconds is None:
                break
    for changes in _CHANGES if plan.what == "train" else ():
        best, least = min(tried.values(), key=lambda pair: pair[1].rank)
        if least.seconds is None:
            break
        for candidate in changes(best):
            attempt(candidate, is_change=True)
    return [made for _, made in tried.values()]


def _attempt(result: Result) -> Attempt:
    fits, needed = result.fit.memory.fits, result.fit.memory.needed
    seconds = result.fit.seconds if fits else None
    line = result.fit.roofline
    return Attempt(
        words=describe(result.plan),
        lines=config_lines(result.plan),
        seconds=seconds,
        per_row=None if seconds is None else seconds / result.plan.shape.rows,
        needed=needed,
        mfu=None if seconds is None or line is None else line.model_flops / line.peak / seconds,
        result=result,
    )


def config_lines(plan: Plan) -> tuple[str, ...]:
    """What makes a config this plan, as lines of its file."""
    lines = [
        f'config.model.remat = "{plan.model.remat}"',
        f'config.model.image_kv = "{plan.model.image_kv}"',
        f"config.model.scan_unroll = {plan.model.scan_unroll}",
        f"config.mesh = { ({axis: size for axis, size in plan.mesh.shape.items() if size > 1}) }",
        f"config.data.rows = {plan.shape.rows}",
        f"config.data.shards = {plan.shape.shards}",
        f"config.train.accumulate_steps = {plan.accumulation}",
        f"config.train.loss_chunk = {plan.train.loss_chunk}",
        f"config.train.compiler_options = {dict(plan.train.compiler_options)}",
    ]
    if plan.model.attention != "auto":
        lines.append(f'config.model.attention = "{plan.model.attention}"')
    if plan.attention == "splash":
        lines.append(f"config.model.splash_block = {plan.model.splash_block}")
    return tuple(lines)


def _families(plan: Plan) -> Iterator[list[Plan]]:
    """Per remat policy, plans with 1, 2, 4, ... rows at a time; hopeless ones are left out."""
    if plan.what != "train":
        sizes = [batch_ways(plan.mesh) * 2**power for power in range(12)]
        yield [_with_rows(plan, rows) for rows in sizes]
        return
    whole = plan.shape.rows // batch_ways(plan.mesh)
    for policy in remat.POLICIES:
        model = plan.model.replace(remat=policy)
        family = [
            _in_parts(dataclasses.replace(plan, model=model), whole // rows)
            for rows in (2**power for power in range(12))
            if rows <= whole and whole % rows == 0
        ]
        yield [candidate for candidate in family if _least_memory(candidate) < plan.topology.chip.memory]


def _in_parts(plan: Plan, parts: int) -> Plan:
    """The plan with the batch in so many parts, and where it divides, shards that keep images with rows."""
    shape = plan.shape
    shards = math.lcm(shape.shards, batch_ways(plan.mesh) * parts)
    if shape.rows % shards == 0 and shape.images % shards == 0:
        shape = dataclasses.replace(shape, shards=shards)
    train = dataclasses.replace(plan.train, accumulate_steps=parts)
    return dataclasses.replace(plan, shape=shape, train=train)


def _meshes(plan: Plan) -> Iterator[Plan]:
    """Some of the chips along the tensor axis."""
    for tensor in _TENSOR:
        if plan.mesh.size % tensor or plan.mesh.shape[meshes.TENSOR] != 1:
            continue
        mesh = meshes.make_mesh({meshes.FSDP: -1, meshes.TENSOR: tensor}, topology_devices(plan.topology))
        yield dataclasses.replace(plan, mesh=mesh)


def _tiles(plan: Plan) -> Iterator[Plan]:
    for block in _TILES:
        other = block != plan.model.splash_block
        if other and plan.attention == "splash" and plan.shape.length % block == 0:
            yield dataclasses.replace(plan, model=plan.model.replace(splash_block=block))


def _image_kv(plan: Plan) -> Iterator[Plan]:
    """Tokens of images taken and put back in other ways."""
    if plan.shape.images and plan.model.decoder.adapted_projections:
        for other in ("gather", "product"):
            if other != plan.model.image_kv:
                yield dataclasses.replace(plan, model=plan.model.replace(image_kv=other))


def _logits(plan: Plan) -> Iterator[Plan]:
    """More or fewer positions with logits at a time."""
    for chunk in _CHUNKS:
        if chunk != plan.logits_at_a_time and chunk < plan.shape.targets:
            train = dataclasses.replace(plan.train, loss_chunk=chunk)
            yield dataclasses.replace(plan, train=train)


def _unrolled(plan: Plan) -> Iterator[Plan]:
    for layers in _UNROLL:
        if plan.model.decoder.num_layers % layers == 0:
            yield dataclasses.replace(plan, model=plan.model.replace(scan_unroll=layers))


def _with_options(plan: Plan) -> Iterator[Plan]:
    usual = fusion_options(plan.mesh.devices.flat[0])
    for options in OPTIONS:
        if options == usual:
            continue
        chosen = {**plan.train.compiler_options, **options}
        yield dataclasses.replace(plan, train=dataclasses.replace(plan.train, compiler_options=chosen))


_CHANGES: Final = (_image_kv, _logits, _with_options, _tiles, _meshes, _unrolled)


def _with_rows(plan: Plan, rows: int) -> Plan:
    images = round(plan.shape.images / plan.shape.rows * rows)
    return dataclasses.replace(plan, shape=dataclasses.replace(plan.shape, rows=rows, images=images))


def _least_memory(plan: Plan) -> float:
    """Bytes that a plan needs at the very least: the kept activations of the decoder."""
    decoder = plan.model.decoder
    width, hidden = decoder.width, decoder.mlp_dim
    kept = {
        "none": 6 * width + 3 * hidden,
        "products": 6 * width + 2 * hidden,
        "dots": 5 * width + 2 * hidden,
        "attention_mlp": 5 * width + hidden,
        "attention": 5 * width,
        "context": 2 * width,
        "full": width,
    }[plan.model.remat]
    tokens = plan.rows_per_piece * plan.shape.length
    tensor = plan.mesh.shape[meshes.TENSOR]
    return tokens * decoder.num_layers * kept * np.dtype(plan.model.dtype).itemsize / tensor
