"""The JobSet is well-formed, and its numbers agree with each other and with the mesh preset."""

from __future__ import annotations

import math
import re
from pathlib import Path
from string import Template

import pytest
import yaml

from owl2_jax.data.sources.bucket_files import FOLDER
from owl2_jax.parallel.mesh import preset

TEXT = (Path(__file__).parents[2] / "launch" / "gke_jobset.yaml").read_text()
VALUES = {"IMAGE": "registry/owl2:1", "ARGUMENTS": "--config=a.py --workdir=gs://bucket/a"}

# Fields of the resources that the file may use: {field: type, or fields of its items}.
CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "ports": [{"containerPort": int}],
    "resources": {"limits": {"google.com/tpu": int}},
    "env": [{"name": str, "value": str}],
    "volumeMounts": [{"name": str, "mountPath": str}],
}
POD = {
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "nodeSelector": {"cloud.google.com/gke-tpu-accelerator": str, "cloud.google.com/gke-tpu-topology": str},
    "containers": [CONTAINER],
    "volumes": [{"name": str, "hostPath": {"path": str, "type": str}}],
}
POD_FAILURE_RULE = {
    "action": str,
    "onExitCodes": {"containerName": str, "operator": str, "values": [int]},
}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": str,
    "backoffLimit": int,
    "podFailurePolicy": {"rules": [POD_FAILURE_RULE]},
    "template": {"spec": POD},
}
JOBSET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": str}},
    "spec": {
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [{"name": str, "action": str, "onJobFailureReasons": [str]}],
        },
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}


def check(value, schema, where="jobset"):
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        assert set(value) == set(schema), f"{where}: {set(value) ^ set(schema)}"
        for name, inner in schema.items():
            check(value[name], inner, f"{where}.{name}")
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        assert value, where
        for item in value:
            check(item, schema[0], f"{where}[]")
    else:
        assert isinstance(value, schema), f"{where}: {value!r}"


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load(Template(TEXT).substitute(VALUES))


def test_fields_are_those_of_the_resource(jobset):
    check(jobset, JOBSET)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")


def test_every_variable_is_explained():
    variables = set(re.findall(r"\$\{(\w+)\}", TEXT))
    assert variables == set(VALUES)
    comment = TEXT[: TEXT.index("apiVersion")]
    assert all(name in comment for name in variables)


def test_hosts_times_chips_are_the_slice(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(int(size) for size in topology.split("x"))
    assert (
        job["parallelism"]
        == job["completions"]
        == chips // pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    )
    assert preset("v5e-256").topology == f"v5e:{topology}"
    assert preset("v5e-256").devices == chips


def test_failures_start_all_pods_again_and_mistakes_end_the_job(jobset):
    policy = jobset["spec"]["failurePolicy"]
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert policy["maxRestarts"] > 0
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert policy["rules"] == [
        {"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": "train", "operator": "In", "values": [2]}
    assert pod["containers"][0]["name"] == "train"


def test_no_volume_is_shared_and_copies_and_saves_stay_on_the_node(jobset):
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/local"}]
    assert {one["name"]: one["value"] for one in container["env"]} == {FOLDER: "/local/data"}
    assert container["command"][-1] == f"exec owl2 train {VALUES['ARGUMENTS']}"
