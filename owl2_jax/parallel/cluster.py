"""Who this process belongs to: variables of launch scripts, SLURM's, or a TPU machine.

Known without JAX, so that a command can refuse what it must before it imports that.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from owl2_jax.core.errors import Owl2Error, shortened

# Variables that launch scripts set; they win over everything that is detected.
COORDINATOR: Final = "OWL2_COORDINATOR"  # host:port of process 0
PROCESSES: Final = "OWL2_PROCESSES"
PROCESS: Final = "OWL2_PROCESS"  # number of this process, from 0

_GOOGLE_PCI_VENDOR: Final = "0x1ae0"


@dataclass(frozen=True)
class Cluster:
    """How the processes find each other.

    Attributes:
      source: "environment", "slurm" or "tpu".
      coordinator: "host:port" of process 0; None for a TPU, which knows it.
      processes, process: their number and this one's; None for a TPU.
      local_devices: device numbers of this process when it shares its node
        with others, or None for all.
    """

    source: str
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    local_devices: tuple[int, ...] | None = None


def detect(environment: Mapping[str, str]) -> Cluster | None:
    """Finds out from environment variables and the machine how this process was started.

    In this order: the OWL2_ variables, a SLURM step of several tasks, a TPU
    machine (Compute Engine or GKE). None means a single process.

    Raises:
      Owl2Error: the variables of one of them are incomplete or no numbers.
    """
    if any(name in environment for name in (COORDINATOR, PROCESSES, PROCESS)):
        return _from_variables(environment)
    if "SLURM_PROCID" in environment and _slurm_number(environment, "SLURM_NTASKS", "1") > 1:
        return _from_slurm(environment)
    if environment.get("JAX_PLATFORMS", "") in ("", "tpu", "tpu,cpu") and has_tpu():
        return Cluster("tpu")
    return None


def _from_variables(environment: Mapping[str, str]) -> Cluster:
    names = (COORDINATOR, PROCESSES, PROCESS)
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise Owl2Error(f"{', '.join(missing)} not set; several processes need all of {', '.join(names)}")
    try:
        processes, process = int(environment[PROCESSES]), int(environment[PROCESS])
    except ValueError:
        raise Owl2Error(
            f"{PROCESSES}={environment[PROCESSES]!r} and {PROCESS}={environment[PROCESS]!r} must be numbers"
        ) from None
    if not 0 <= process < processes:
        raise Owl2Error(f"{PROCESS}={process} must be from 0 to {PROCESSES} - 1 = {processes - 1}")
    if ":" not in environment[COORDINATOR]:
        raise Owl2Error(f"{COORDINATOR}={environment[COORDINATOR]!r} has no port; write host:port")
    return Cluster("environment", environment[COORDINATOR], processes, process)


def _from_slurm(environment: Mapping[str, str]) -> Cluster:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if not nodes:
        raise _odd_slurm("SLURM_STEP_NODELIST is not set, it should name the nodes of the step")
    # The ports above 61440 are rarely taken, and jobs on one node get different ones.
    port = 61440 + _slurm_number(environment, "SLURM_JOB_ID") % 4096
    tasks, process = (_slurm_number(environment, name) for name in ("SLURM_NTASKS", "SLURM_PROCID"))
    if process >= tasks:
        raise _odd_slurm(f"SLURM_PROCID={process} should be from 0 to SLURM_NTASKS - 1 = {tasks - 1}")
    shares_node = environment.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0].split(",")[0] != "1"
    local = (_slurm_number(environment, "SLURM_LOCALID"),) if shares_node else None
    return Cluster("slurm", f"{first_host(nodes)}:{port}", tasks, process, local)


def _slurm_number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    """A number that `srun` sets. Raises `Owl2Error` for anything else in its place."""
    text = environment.get(name, default)
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        found = f"is {shortened(text)!r}" if name in environment else "is not set"
        raise _odd_slurm(f"{name} {found}, it should be a whole number")
    return int(text)


def _odd_slurm(what: str) -> Owl2Error:
    return Owl2Error(
        f"{what}; start the processes with srun, which sets it, or unset SLURM_PROCID to run one alone"
    )


def first_host(nodes: str) -> str:
    """First name of a SLURM node list: "gpu[07-09,12],login1" gives "gpu07"."""
    prefix, bracket, rest = nodes.partition("[")
    if not bracket or "," in prefix:
        return nodes.split(",")[0]
    return prefix + rest.split("]")[0].split(",")[0].split("-")[0]


def has_tpu() -> bool:
    """Whether TPU chips are plugged into this machine."""
    return any(
        Path(vendor).read_text().strip() == _GOOGLE_PCI_VENDOR
        for vendor in glob.glob("/sys/bus/pci/devices/*/vendor")
    )
