"""Each command of the README that names a place is run with a bucket in it, by a test of this suite."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Flags that name a place, of any command.
PLACES = (
    "--adapter", "--checkpoint", "--clip", "--data-root", "--golden", "--image", "--input", "--llama",
    "--output", "--run", "--source", "--workdir",
)  # fmt: skip
FILES = ("cli/test_buckets.py", "convert/test_buckets.py", "sweeps/test_run.py")


def named() -> set[tuple[str, str]]:
    """(words of the command, flag) of the README's blocks of commands."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.split("#")[0].split() for block in blocks for line in block.splitlines()]
    found = set()
    for words in (line[1:] for line in lines if line[:1] == ["owl2"]):
        command = " ".join(words[: 2 if words[0] in ("convert", "data", "bench") else 1])
        flags = {word.partition("=")[0] for word in words}
        found |= {(command, flag) for flag in flags & set(PLACES)}
    return found


def sources_of_tests() -> dict[str, str]:
    """{name of a test or helper of buckets: its source}."""
    sources = {}
    for name in FILES:
        path = ROOT / "tests" / name
        text = path.read_text()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                sources[f"{name}::{node.name}"] = ast.get_source_segment(text, node) or ""
    return {name: source for name, source in sources.items() if "bucket" in source or "def train" in source}


def test_every_command_of_the_readme_that_names_a_place_is_run_with_a_bucket():
    sources = sources_of_tests().values()
    missing = []
    for command, flag in named():
        words = command.split()
        if not any(f'"{words[-1]}"' in source and flag in source for source in sources):
            missing.append((command, flag))
    assert named()
    assert missing == []
