"""A source of a million records: seconds to the first batch, seconds to resume, memory.

python -m tests.data.scale --records 1000000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from owl2_jax.core.host_memory import keep_freed_memory
from owl2_jax.data.config import DatasetConfig
from owl2_jax.data.pipeline import Pipeline
from tests.data import corpora


def write_records(folder: Path, count: int) -> Path:
    """JSON lines of about 250 bytes, two of three with one of a hundred images."""
    names = corpora.write_images(folder, 100)
    path = folder / "records.jsonl"
    with path.open("w") as file:
        for number in range(count):
            images = [names[number % len(names)]] if number % 3 else []
            record = corpora.dialogue(f"{number}", f"answer {number} " + "word " * (number % 40), images)
            file.write(json.dumps(record) + "\n")
    return path


def first_batch(path: Path, state: dict[str, Any] | None) -> dict[str, Any]:
    """Opens a pipeline, takes a batch, and says what it took; run it in a process of its own."""
    keep_freed_memory()
    start, cpu = time.perf_counter(), time.process_time()
    sets = {"large": DatasetConfig("llava", {"path": str(path)})}
    config = corpora.config(sets, rows=8, row_length=256, shards=4)
    pipeline = Pipeline(config, corpora.IMAGE_SIZE, corpora.TOKENS_PER_IMAGE)
    if state is not None:
        pipeline.set_state(state)
    next(pipeline)
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    found = {"seconds": seconds, "cpu_seconds": used, "state": pipeline.get_state()}
    pipeline.close()
    return found | {"memory_gb": _resident_gb()}


def _resident_gb() -> float:
    """Most memory that this process has held."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def _in_process(path: Path, state: dict[str, Any] | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.data.scale", "--open", str(path)]
    output = subprocess.run(
        command, input=json.dumps(state), capture_output=True, text=True, check=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def measure(folder: Path, count: int) -> dict[str, dict[str, Any]]:
    """What a start and a resumption took, each in a process of its own."""
    path = write_records(folder, count)
    start = _in_process(path, None)
    resumption = _in_process(path, start.pop("state"))
    del resumption["state"]
    return {"start": start, "resumption": resumption}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--open", type=Path, help="open this file and print what that took")
    args = parser.parse_args()
    if args.open is not None:
        print(json.dumps(first_batch(args.open, json.load(sys.stdin))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, values in measure(Path(folder), args.records).items():
            print(name, {key: round(value, 2) for key, value in values.items()})


if __name__ == "__main__":
    main()
