"""Arguments that several commands share, and what becomes of them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from owl2_jax.core.errors import Owl2Error, nearest
from owl2_jax.core.locks import locked, refuse_held
from owl2_jax.core.ranges import Count, PartKept, between
from owl2_jax.core.texts import BucketPath

if TYPE_CHECKING:
    from owl2_jax.inference.engine import EngineConfig
    from owl2_jax.inference.loaded_model import LoadedModel

_SEQUENCES = 64
CacheMib = Annotated[int, between(1, 2**20)]


@contextmanager
def only_writer(path: Path, what: str) -> Iterator[None]:
    """Holds the lock of an output inside the block; of several processes the first holds it for all.

    Args:
      path: the lock file.
      what: the output, for the message, as "--output DIR".

    Raises:
      LockedError: somebody else writes there, and who.
    """
    from owl2_jax.parallel import multihost

    with ExitStack() as stack:
        multihost.by_first(f"lock of {what}", lambda: stack.enter_context(locked(path, what)))
        yield


def refuse_other_writer(path: Path, what: str) -> None:
    """Says at once what `only_writer` would say after JAX is imported, where this process runs alone.

    Raises:
      LockedError: somebody else on this machine writes there, and who.
      Owl2Error: variables of a launch script or of SLURM that make no sense.
    """
    from owl2_jax.parallel.cluster import detect

    if detect(os.environ) is None:  # of several processes, the first may hold it already
        refuse_held(path, what)


def keep_compiled_programs() -> None:
    """Lets this process load programs that earlier ones compiled, and keep its own.

    For every command that compiles, before it does. Where nothing can be kept, one line says so
    and the command goes on. JAX's own setting (JAX_COMPILATION_CACHE_DIR) takes precedence.

    Raises:
      Owl2Error: the variable that moves the folder holds no folder.
    """
    from owl2_jax.core import compilation_cache

    try:
        folder = compilation_cache.cache_folder()
        if folder is not None:
            compilation_cache.keep_programs_in(folder, _warn)
    except compilation_cache.NoFolderError as error:
        _warn(f"{error}; {compilation_cache.WITHOUT}")


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """`--checkpoint` and `--dtype` of every command that loads a model."""
    parser.add_argument(
        "--checkpoint", required=True, type=BucketPath, metavar="DIR",
        help="model directory, run directory (latest step) or released directory",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of the computation; by default the checkpoint's own"
    )


def add_mesh_argument(parser: argparse.ArgumentParser) -> None:
    """`--mesh` over the devices of this host."""
    parser.add_argument(
        "--mesh", metavar="AXIS=N,...",
        help="spread the model over this host's devices, as tensor=4 (default: one device)",
    )  # fmt: skip


def load_model(args: argparse.Namespace, int8: bool = False) -> LoadedModel:
    """The checkpoint of the arguments, on the mesh of the arguments. Raises `Owl2Error`."""
    import jax

    from owl2_jax.loading import load_model as load
    from owl2_jax.parallel.mesh import make_mesh

    keep_compiled_programs()
    mesh = make_mesh(args.mesh, jax.local_devices()) if args.mesh else None
    return load(args.checkpoint, dtype=args.dtype, mesh=mesh, int8=int8)


def add_engine_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Sizes of the engine; `what` it does at a time."""
    parser.add_argument("--sequences", type=Count, metavar="N", help=f"{what} at a time (default: 64)")
    parser.add_argument("--slots", type=Count, dest="sequences", help=argparse.SUPPRESS)  # older name
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--cache-share", type=PartKept, metavar="S",
        help="share of what an accelerator's memory has left once the model is there, for keys and values: "
        "as much of it as they need is taken at the start (default: 0.9)",
    )  # fmt: skip
    size.add_argument(
        "--cache-mib", type=CacheMib, metavar="N",
        help="this much for keys and values instead (default on a CPU: what they need, up to 256)",
    )  # fmt: skip


def engine_config(model: LoadedModel, args: argparse.Namespace) -> EngineConfig:
    """Sizes for many requests at once, as the arguments ask for them."""
    from owl2_jax.inference.engine import EngineConfig
    from owl2_jax.parallel.shardings import batch_ways

    ways = batch_ways(model.mesh) if model.mesh else 1
    sequences = args.sequences or -(-_SEQUENCES // ways) * ways
    return EngineConfig(
        sequences=sequences,
        cache_bytes=args.cache_mib and args.cache_mib * 2**20,
        cache_share=args.cache_share,
    )


def check_image(path: Path) -> None:
    """Raises `Owl2Error` when a file is no image that can be shown; of a missing one, what is there."""
    from owl2_jax.data.images import ImageError, decode

    try:
        decode(path)
    except ImageError as error:
        if error.reason != "missing":
            raise
        try:
            near = nearest(path.name, (each.name for each in path.parent.iterdir()), count=1)
        except OSError:
            near = []
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise Owl2Error(f"cannot read the image {path}: there is no such file; {hint}") from error


def add_int8_argument(parser: argparse.ArgumentParser) -> None:
    """`--int8` of the decoder."""
    parser.add_argument(
        "--int8", action="store_true", help="hold the decoder's matrices in int8: less memory, small error"
    )


def add_length_argument(parser: argparse.ArgumentParser) -> None:
    """`--max-new-tokens` of an answer."""
    parser.add_argument(
        "--max-new-tokens", type=Count, metavar="N",
        help="longest answer; by default what the model has room for",
    )  # fmt: skip
