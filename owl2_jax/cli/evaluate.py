"""`owl2 evaluate`: benchmarks on a checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from owl2_jax.cli.common import (
    add_engine_arguments,
    add_mesh_argument,
    engine_config,
    load_model,
    only_writer,
    refuse_other_writer,
)
from owl2_jax.core.locks import LOCK_FILE
from owl2_jax.core.ranges import Count, Share
from owl2_jax.core.texts import BucketPath

if TYPE_CHECKING:
    from owl2_jax.evals.asking import EngineModel
    from owl2_jax.evals.base import Benchmark
    from owl2_jax.evals.results import Score
    from owl2_jax.evals.runner import Shard

_SCORING_S = 6 * 3600  # that processes wait for the first to score; some metrics run for an hour


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 evaluate`."""
    parser.add_argument(
        "--checkpoint", type=BucketPath, metavar="DIR", help="model, run or released directory"
    )
    parser.add_argument("--benchmarks", default="", metavar="A,B", help="names of benchmarks or groups")
    parser.add_argument("--list", action="store_true", help="show all benchmarks and what files they need")
    parser.add_argument(
        "--data-root", type=BucketPath, default=Path("data"), metavar="DIR", help="published files"
    )
    parser.add_argument("--output", type=BucketPath, default=Path("runs/evaluation"), metavar="DIR",
                        help="results and scores.json; an interrupted run goes on there")  # fmt: skip
    parser.add_argument("--limit", type=Count, metavar="N", help="only the first N questions of each")
    parser.add_argument("--judgements", action="append", default=[], metavar="NAME=FILE",
                        help="scores of a judge for MM-Vet, MMHal-Bench or video answers")  # fmt: skip
    parser.add_argument("--charts", action="store_true", help="write bars.png and radar.png (extra [plots])")
    add_engine_arguments(parser, "questions")
    parser.add_argument("--max-broken-share", type=Share, default=0.1, metavar="X",
                        help="share of a benchmark's rows that may be broken (missing images, unreadable "
                        "values) and go unscored; judged from 100 rows on, 0.1 by default")  # fmt: skip
    add_mesh_argument(parser)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of parameters and computation")


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 evaluate`; returns the exit code."""
    from owl2_jax.evals.registry import expand_names, get_benchmark

    if args.list:
        return _list()
    names = expand_names([name.strip() for name in args.benchmarks.split(",") if name.strip()])
    benchmarks = {name: get_benchmark(name) for name in names}
    judgements = _judgements(args.judgements, names)
    _check(args, benchmarks)

    from owl2_jax.checkpoint.identity import checkpoint_identity
    from owl2_jax.evals.journal import check_checkpoint
    from owl2_jax.parallel import multihost

    identity = checkpoint_identity(args.checkpoint) + (f" in {args.dtype}" if args.dtype else "")
    multihost.initialize()
    with only_writer(args.output / LOCK_FILE, f"--output {args.output}"):
        check_checkpoint(args.output, identity)
        scores = _evaluate(benchmarks, judgements, identity, args)
        if scores:
            _report(scores, args)
    return 0


def _evaluate(
    benchmarks: dict[str, Benchmark], judgements: dict[str, Path], identity: str, args: argparse.Namespace
) -> list[Score]:
    """The scores of all benchmarks, each written as soon as it is known; none but on the first process."""
    from owl2_jax.evals.results import write_scores
    from owl2_jax.evals.runner import evaluate

    shard, model = _shard(), cache(partial(_model, args))
    scores = []
    for name, benchmark in benchmarks.items():
        with _progress(benchmark.title) as progress:
            score = evaluate(
                name,
                benchmark,
                model,
                checkpoint=identity,
                root=args.data_root,
                out=args.output,
                limit=args.limit,
                shard=shard,
                judgements=judgements.get(name),
                max_broken_share=args.max_broken_share,
                progress=progress,
            )
        if score is not None:
            scores.append(score)
            write_scores(args.output / "scores.json", [score])
    return scores


def _list() -> int:
    from owl2_jax.evals.registry import BENCHMARKS, GROUPS, get_benchmark

    for name in BENCHMARKS:
        benchmark = get_benchmark(name)
        print(f"{name:20} {benchmark.title}")
        # The many parts of one release say the same; its first three are enough.
        for file in benchmark.files[:3]:
            print(f"{'':20}   {file.path}  <-  {file.source}")
    for name, members in GROUPS.items():
        print(f"{name:20} = {', '.join(members)}")
    return 0


def _judgements(pairs: list[str], names: list[str]) -> dict[str, Path]:
    from owl2_jax.core.errors import Owl2Error, unknown_name
    from owl2_jax.core.fields import read_path

    found: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or not path:
            raise Owl2Error(f"--judgements {pair!r} is not of the form NAME=FILE")
        if name not in names:
            raise unknown_name("benchmark of this run", name, names)
        found[name] = read_path(BucketPath, path, f"--judgements {name}")
        if not found[name].is_file():
            raise Owl2Error(f"--judgements {name}: there is no file {path}")
    return found


def _check(args: argparse.Namespace, benchmarks: dict[str, Benchmark]) -> None:
    """Everything that can be wrong is said before hours are spent on the first benchmark."""
    from owl2_jax.checkpoint.param_files import check_checkpoint
    from owl2_jax.core.errors import Owl2Error
    from owl2_jax.core.file_writing import check_folder

    if args.checkpoint is None:
        raise Owl2Error("--checkpoint DIR is missing: the model to evaluate")
    check_checkpoint(args.checkpoint)
    check_folder(args.output, "--output")
    refuse_other_writer(args.output / LOCK_FILE, f"--output {args.output}")
    for name, benchmark in benchmarks.items():
        benchmark.check()
        for file in benchmark.files:
            file.require(args.data_root)
        for metric, why in benchmark.left_out().items():
            print(f"note: {name} goes without {metric}: {why}", file=sys.stderr)
    if args.charts:
        from owl2_jax.evals.plots import require_matplotlib

        require_matplotlib()


def _shard() -> Shard:
    """This process's part of the questions; each process holds the whole model."""
    import jax
    from jax.experimental import multihost_utils

    from owl2_jax.evals.runner import Shard
    from owl2_jax.parallel import multihost

    if jax.process_count() == 1:
        return Shard()
    barrier = partial(multihost_utils.sync_global_devices, "owl2 evaluate")
    by_first = partial(multihost.by_first, "scores", timeout_s=_SCORING_S)
    return Shard(jax.process_index(), jax.process_count(), barrier, by_first)


def _model(args: argparse.Namespace) -> EngineModel:
    """The engine, made when the first question is asked; questions of a finished run need none."""
    from owl2_jax.evals.asking import EngineModel
    from owl2_jax.inference.engine import Engine

    loaded = load_model(args)
    return EngineModel(Engine(loaded, engine_config(loaded, args)))


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal, which gives the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _report(scores: list[Score], args: argparse.Namespace) -> None:
    from rich.console import Console

    from owl2_jax.core.file_writing import write_text
    from owl2_jax.evals import plots, results

    everything = list(results.read_scores(args.output / "scores.json").values())
    write_text(args.output / "scores.md", results.markdown(everything))
    Console().print(results.table(scores))
    for score in scores:
        if score.broken:
            print(f"note: {score.broken_note}", file=sys.stderr)
    if args.charts:
        for path in plots.write_charts(everything, args.output):
            print(f"wrote {path}")
    print(f"wrote {args.output / 'scores.json'} and {args.output / 'scores.md'}")
