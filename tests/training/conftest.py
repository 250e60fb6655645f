"""A trainer and a finished run that several tests look at; compiling them once saves most of the time."""

from __future__ import annotations

import jax
import pytest

from tests.training import runs


@pytest.fixture(scope="package")
def config():
    return runs.run_config()


@pytest.fixture(scope="package")
def trainer(config):
    return runs.trainer_of(config)


@pytest.fixture(scope="package")
def straight(config, trainer, tmp_path_factory):
    """(run directory, outcome with the state on the host, tokens of the batches) of four straight steps."""
    folder = tmp_path_factory.mktemp("straight")
    outcome, tokens = runs.run(config, folder, trainer=trainer)
    return folder, outcome._replace(state=jax.device_get(outcome.state)), tokens
