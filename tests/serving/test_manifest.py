"""`launch/serve.yaml` says what the command and the server understand."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml

from owl2_jax.cli import serve as command
from owl2_jax.serving import api

MANIFEST = Path(__file__).parents[2] / "launch" / "serve.yaml"


@pytest.fixture(scope="module")
def parts() -> dict:
    return {part["kind"]: part for part in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def container(parts) -> dict:
    (found,) = parts["Deployment"]["spec"]["template"]["spec"]["containers"]
    return found


@pytest.fixture(scope="module")
def arguments(container) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.add_arguments(parser)
    return parser.parse_args(container["args"])


def test_arguments_are_those_of_the_command(container, arguments):
    assert container["command"] == ["owl2", "serve"]
    assert arguments.host == "0.0.0.0"
    assert container["env"][0]["name"] == command.KEY_VARIABLE


def test_probes_ask_paths_that_are_there(container, arguments):
    paths = {route.path for route in api._open.routes}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["httpGet"]["path"] in paths
    assert container["ports"] == [{"name": "http", "containerPort": arguments.port}]


def test_pod_is_given_longer_than_the_grace_time(parts, arguments):
    limit = parts["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert limit >= arguments.grace_seconds + 20


def test_service_and_budget_select_the_pods(parts):
    labels = parts["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert parts["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert parts["Service"]["spec"]["selector"] == labels
    assert parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert parts["Deployment"]["spec"]["replicas"] > parts["PodDisruptionBudget"]["spec"]["minAvailable"]
