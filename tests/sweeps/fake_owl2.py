"""Stands in for `owl2` in tests of the runner: leaves a run's files in a moment, and fails when told to.

FAKE_FAILS: a file with lines "COMMAND TEXT CODE"; the first whose text is in the arguments is taken
out of the file and ends the command with its code.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import time
from pathlib import Path

STEPS = 4


def main(arguments: list[str]) -> int:
    options = dict(
        part.lstrip("-").split("=", 1) for part in arguments if part.startswith("--") and "=" in part
    )
    code = told_to_fail(arguments)
    if code is not None:
        print(f"error: told to end with {code}", file=sys.stderr)
        return code
    time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
    if arguments[0] == "train":
        train(place(options["workdir"]), arguments)
    elif arguments[0] == "evaluate":
        evaluate(place(options["output"]), options["benchmarks"].split(","))
    elif arguments[0] == "convert":
        Path(options["output"]).mkdir(parents=True)
    elif arguments[0] == "fit":
        print(
            json.dumps(
                {"fits": True, "topology": "v5e:2x2", "memory": {"needed": 3 * 2**30, "capacity": 16 * 2**30}}
            )
        )
    return 0


def place(text: str) -> Path:
    """A path, also in a bucket; what is needed for those takes a while to import."""
    if "://" not in text:
        return Path(text)
    from owl2_jax.core.paths import as_path

    return as_path(text)


def told_to_fail(arguments: list[str]) -> int | None:
    path = Path(os.environ.get("FAKE_FAILS", "nothing"))
    lines = path.read_text().splitlines() if path.is_file() else []
    for number, line in enumerate(lines):
        command, text, code = line.split()
        if command == arguments[0] and any(text in argument for argument in arguments):
            path.write_text("\n".join(lines[:number] + lines[number + 1 :]))
            return int(code)
    return None


def train(run: Path, arguments: list[str], loss: float = 0.5, seconds: float = 0.1) -> None:
    (run / "checkpoints" / str(STEPS)).mkdir(parents=True)
    if "://" in str(run):
        (run / "checkpoints" / str(STEPS) / "commit_success.txt").write_text("done")
    seed = next((ast.literal_eval(a.split("=")[1]) for a in arguments if a.startswith("train.seed=")), 0)
    lines = [
        {
            "step": step,
            "loss": loss + seed + (STEPS - step),
            "seconds_per_step": seconds,
            "samples_per_second": 160.0,
        }
        for step in range(2, STEPS + 1, 2)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def evaluate(output: Path, benchmarks: list[str], value: float | None = 80.0) -> None:
    output.mkdir(parents=True, exist_ok=True)
    seed = int(output.parent.name.rpartition("-")[2]) if output.parent.name.startswith("seed-") else 0
    scores = [
        {"benchmark": name, "title": name.replace("_", " "), "metric": "accuracy",
         "value": None if value is None else value + seed,
         "metrics": {"accuracy": value, "shape": 50.0 + seed}}
        for name in benchmarks
    ]  # fmt: skip
    (output / "scores.json").write_text(json.dumps({"scores": scores}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
