"""Every benchmark with the files it reads, made of their classes."""

from __future__ import annotations

from tables import code, prose, table

from owl2_jax.evals.registry import BENCHMARKS, GROUPS, get_benchmark

_SHOWN = 4  # of the many parts of one release


def benchmarks_page() -> str:
    """Names, files and their publishers."""
    words = (
        "Names for `owl2 evaluate --benchmarks`, and where each file lies below `--data-root`. Nothing is "
        "downloaded: get the files from the page beside them."
    )
    rows = [(code(name, name), prose(get_benchmark(name).title), _files(name)) for name in BENCHMARKS]
    groups = [(code(name), ", ".join(map(code, members))) for name, members in GROUPS.items()]
    return "\n\n".join(
        [
            "# Benchmarks and their files", prose(words), table(("name", "benchmark", "files"), rows),
            "## Groups", table(("name", "stands for"), groups),
        ]
    )  # fmt: skip


def _files(name: str) -> str:
    files = get_benchmark(name).files
    lines = [f"{code(file.path)} from {prose(file.source)}" for file in files[:_SHOWN]]
    if len(files) > _SHOWN:
        lines.append(f"and {len(files) - _SHOWN} more of the kind")
    return "<br>".join(lines) or "in the package"
