"""The evaluations that `owl2 train` hands to the loop: held-out loss and benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from owl2_jax.core.paths import as_path
from owl2_jax.core.tree import Params

if TYPE_CHECKING:
    from owl2_jax.config import RunConfig
    from owl2_jax.data.tokenizer import Tokenizer
    from owl2_jax.evals.base import Answered, Benchmark, Question
    from owl2_jax.evals.rows import Broken
    from owl2_jax.inference.loaded_model import LoadedModel
    from owl2_jax.training.config import EvaluatorConfig
    from owl2_jax.training.hooks import Hook
    from owl2_jax.training.trainer import Trainer


def metric_names(config: RunConfig) -> list[str]:
    """What the evaluations of a config report, as "name/metric". Raises `Owl2Error` for unknown ones."""
    names = []
    if config.heldout is not None:
        from owl2_jax.training.heldout import NAME, heldout_metrics

        names += [f"{NAME}/{metric}" for metric in heldout_metrics(config.heldout)]
    for evaluator in config.evaluators:
        names.append(f"{evaluator.benchmark}/{_benchmark(evaluator).metric}")
    return names


def _benchmark(evaluator: EvaluatorConfig) -> Benchmark:
    from owl2_jax.core.errors import Owl2Error
    from owl2_jax.evals.registry import get_benchmark

    benchmark = get_benchmark(evaluator.benchmark)
    if not benchmark.scored_here:
        raise Owl2Error(
            f"evaluator {evaluator.benchmark!r} is scored by a judge or a server, so not during training; "
            "use `owl2 evaluate` on a checkpoint"
        )
    benchmark.check()
    for file in benchmark.files:
        file.require(as_path(evaluator.data_root))
    return benchmark


def make_hooks(config: RunConfig, trainer: Trainer, tokenizer: Tokenizer) -> list[Hook]:
    """The hooks of a config; all processes take part in each. Raises `Owl2Error`."""
    hooks = []
    if config.heldout is not None:
        from owl2_jax.training.heldout import make_heldout

        hooks.append(make_heldout(config.heldout, config.data, trainer))
    for evaluator in config.evaluators:
        hooks.append(_evaluator(evaluator, config, trainer, tokenizer))
    return hooks


def _evaluator(evaluator: EvaluatorConfig, config: RunConfig, trainer: Trainer, tokenizer: Tokenizer) -> Hook:
    import jax

    from owl2_jax.evals.loading import MAX_BROKEN_SHARE, check_share, load_questions, missing_images
    from owl2_jax.evals.rows import left_out
    from owl2_jax.training.hooks import Hook

    benchmark = _benchmark(evaluator)
    limit = evaluator.max_questions or None
    questions, broken = load_questions(evaluator.benchmark, benchmark, as_path(evaluator.data_root), limit)
    missing = missing_images(questions)
    total = len(questions) + len(broken)
    broken += [left_out(questions[index], f"cannot be asked: {why}") for index, why in missing.items()]
    check_share(f"evaluator {evaluator.benchmark}", broken, total, MAX_BROKEN_SHARE, "the limit")
    if broken and jax.process_index() == 0:
        print(
            f"note: evaluator {evaluator.benchmark}: {len(broken)} broken rows, first {broken[0]}",
            file=sys.stderr,
        )
    own = questions[jax.process_index() :: jax.process_count()]

    def run(params: Params) -> Mapping[str, float]:
        answered = _answer(benchmark, own, _model(params, config, trainer, tokenizer))
        return benchmark.summarise(_everyone(answered, questions)).metrics

    return Hook(evaluator.benchmark, evaluator.every_steps, run, (benchmark.metric,))


def _answer(
    benchmark: Benchmark, questions: Sequence[Question], model: LoadedModel
) -> list[Answered | Broken]:
    from owl2_jax.evals.asking import EngineModel
    from owl2_jax.evals.runner import answer_in_memory
    from owl2_jax.inference.engine import Engine, EngineConfig

    engine = Engine(model, EngineConfig(sequences=64))
    return answer_in_memory(benchmark, questions, EngineModel(engine))


def _model(params: Params, config: RunConfig, trainer: Trainer, tokenizer: Tokenizer) -> LoadedModel:
    """The model of this step; with several processes each has a whole copy on its own devices."""
    import jax

    from owl2_jax.inference.loaded_model import LoadedModel
    from owl2_jax.model.owl2 import logical_axes
    from owl2_jax.parallel.mesh import make_mesh
    from owl2_jax.parallel.shardings import param_shardings

    mesh = trainer.mesh
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        mesh = make_mesh({"fsdp": -1}, jax.local_devices())
        params = multihost_utils.process_allgather(params, tiled=True)
        params = jax.device_put(params, param_shardings(logical_axes(config.model), mesh))
    shared = mesh if mesh.size > 1 else None
    return LoadedModel(config.model, params, tokenizer, config.data.prompt_format, mesh=shared)


def _everyone(answered: Sequence[Answered | Broken], questions: Sequence[Question]) -> list[Answered]:
    """The answers of all processes, in the order of the questions; those that could not be asked are told."""
    from owl2_jax.core.errors import Owl2Error
    from owl2_jax.evals.base import Answered
    from owl2_jax.parallel.multihost import all_gather

    parts = all_gather(
        [[one.prediction, one.score] if isinstance(one, Answered) else [None, str(one)] for one in answered]
    )
    ordered = [parts[number % len(parts)][number // len(parts)] for number in range(len(questions))]
    broken = [row[1] for row in ordered if row[0] is None]
    if len(broken) == len(questions):
        raise Owl2Error(f"every one of {len(questions)} questions is broken, first {broken[0]}")
    if broken:
        print(f"note: {len(broken)} questions were not asked, first {broken[0]}", file=sys.stderr)
    return [
        Answered(question, *row)
        for question, row in zip(questions, ordered, strict=True)
        if row[0] is not None
    ]
