"""Published steps: their own count of operations, and a config of ours that is valid."""

import pytest

from owl2_jax.config import RunConfig
from owl2_jax.core.errors import Owl2Error
from owl2_jax.perf import published


@pytest.mark.parametrize("name", published.STEPS)
def test_every_step_is_a_valid_config_of_text_alone(name):
    step = published.published(name)
    config = RunConfig.from_dict(step.config())
    assert config.data.rows == step.rows * step.chips
    assert (config.data.images, config.model.decoder.adaptive) == (0, "none")
    assert config.model.decoder.head_dim == 128


def test_count_of_operations_gives_the_published_rate():
    # 132 TFLOP/s per chip stand beside the 66.86 %.
    step = published.published("maxtext_32b_v5e")
    assert step.flops / step.seconds == pytest.approx(132e12, rel=0.005)
    assert step.seconds == pytest.approx(12.1, abs=0.1)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(Owl2Error, match="did you mean 'llama2_70b_v5p'"):
        published.published("llama2_70b_v5e")
