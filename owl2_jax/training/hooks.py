"""What runs beside the steps: evaluations every so many steps, handed in by whoever starts a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from owl2_jax.checkpoint.best import BestConfig
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.tree import Params


@dataclass(frozen=True)
class Hook:
    """An evaluation of the parameters.

    Attributes:
      name: its numbers are reported as "name/metric".
      every_steps: how often it runs; also after the last step.
      run: params to {metric: value}. Every process calls it.
      metrics: names that `run` returns, or the chief one of them.
    """

    name: str
    every_steps: int
    run: Callable[[Params], Mapping[str, float]]
    metrics: tuple[str, ...]

    def is_due(self, step: int, last: bool) -> bool:
        """Whether it runs after this step, as it always does after the last."""
        return last or step % self.every_steps == 0


def evaluate(hooks: Sequence[Hook], params: Params) -> dict[str, float]:
    """Runs the hooks: {"name/metric": value}."""
    return {
        f"{hook.name}/{metric}": float(value) for hook in hooks for metric, value in hook.run(params).items()
    }


def check_best(best: BestConfig | None, known: Sequence[str]) -> None:
    """Raises `Owl2Error` when no evaluation gives the metric that chooses the best checkpoint.

    Args:
      known: "name/metric" of the evaluations.
    """
    if best is None:
        return
    if not known:
        raise Owl2Error(
            f"train.best asks for {best.metric}, but the run evaluates nothing; set heldout or evaluators"
        )
    if best.metric not in known:
        raise unknown_name("metric of train.best", best.metric, known)
