"""What is fixed during a run: model, plan of the parameters, optimiser, mesh, compiled step.

Apart from the loop, so that a step can be compiled or timed without the input
pipeline and checkpoints.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import optax

from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import Owl2, abstract_params, logical_axes
from owl2_jax.parallel import rules, shardings
from owl2_jax.training import groups
from owl2_jax.training.config import TrainConfig
from owl2_jax.training.optimizer import make_optimizer
from owl2_jax.training.state import TrainState, create_state
from owl2_jax.training.step import train_step


@dataclass(frozen=True)
class Trainer:
    """What is fixed during a run: model, plan, optimiser, mesh, and the compiled step.

    Attributes:
      state_shardings: a sharding at each leaf of the state.
      step: (state, batch) to (state, metrics); the state is donated.
    """

    model: Owl2
    config: TrainConfig
    plans: dict[str, groups.LeafPlan]
    optimizer: optax.GradientTransformation
    mesh: jax.sharding.Mesh
    state_shardings: TrainState
    step: Any

    def create(self, params: dict[str, Any]) -> TrainState:
        """A state at step 0 over parameters that are already on the mesh."""
        create = functools.partial(create_state, plans=self.plans, optimizer=self.optimizer)
        return jax.jit(create, out_shardings=self.state_shardings)(params)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        create = functools.partial(create_state, plans=self.plans, optimizer=self.optimizer)
        shapes = jax.eval_shape(create, abstract_params(self.model.config))
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.state_shardings,
        )


def make_trainer(model_config: Owl2Config, config: TrainConfig, mesh: jax.sharding.Mesh) -> Trainer:
    """Plans the parameters and prepares the step. Raises `Owl2Error` for groups or sizes that do not fit."""
    model, shapes, axes = Owl2(model_config), abstract_params(model_config), logical_axes(model_config)
    shardings.check_params(axes, shapes, mesh)
    plans = groups.plan_leaves(shapes, config)
    optimizer = make_optimizer(config, plans)
    abstract = jax.eval_shape(functools.partial(create_state, plans=plans, optimizer=optimizer), shapes)
    leaf_shardings = shardings.param_shardings(axes, mesh)
    state_shardings = shardings.like_params(abstract, leaf_shardings, shapes, mesh)
    step = functools.partial(train_step, model=model, optimizer=optimizer, plans=plans, config=config)
    compiled = jax.jit(
        rules.activate(mesh)(step),
        in_shardings=(state_shardings, shardings.batch_sharding(mesh)),
        out_shardings=(state_shardings, None),
        donate_argnums=0,
    )
    return Trainer(model, config, plans, optimizer, mesh, state_shardings, compiled)
