"""MkDocs hook: adds the reference pages, which are made of the code at every build."""

from __future__ import annotations

import re
from pathlib import Path

from benchmark_pages import benchmarks_page
from command_pages import command_page, commands_page
from field_pages import config_page, other_configs_page, sources_page
from memory_table import memory_table
from metric_pages import metrics_page, reasons_page
from mkdocs.structure.files import File
from python_pages import python_page

from owl2_jax.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
MEMORY = "<!-- table: memory -->"
DRAWINGS = ROOT / "docs" / "drawings"

# Path -> (title in the navigation, function that makes the page).
PAGES = {
    "reference/commands.md": ("Commands", commands_page),
    "reference/config.md": ("Fields of a training config", config_page),
    "reference/other_configs.md": ("Fields of sweeps and data preparation", other_configs_page),
    "reference/sources.md": ("Sources of data", sources_page),
    "reference/benchmarks.md": ("Benchmarks and their files", benchmarks_page),
    "reference/metrics.md": ("Metrics", metrics_page),
    "reference/reasons.md": ("Reasons for rejected records", reasons_page),
    "reference/python.md": ("The Python API", python_page),
}
# Plots of other folders that pages show, by their path in the site.
PLOTS = {"plots/claims.png": "notebooks/miniature/claims.png"}


def on_config(config):
    """Lists the made pages below "Reference"."""
    reference = next(part["Reference"] for part in config.nav if "Reference" in part)
    made = [{title: path} for path, (title, _) in PAGES.items()]
    commands = [{f"owl2 {name}": command_path(name)} for name in COMMANDS]
    made[0] = {"Commands": ["reference/commands.md", *commands]}
    reference[1:1] = made
    return config


def on_files(files, config):
    """Makes the pages."""
    for path, (_, make) in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    for name in COMMANDS:
        files.append(File.generated(config, command_path(name), content=command_page(name)))
    for path, source in PLOTS.items():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / source)))
    return files


def command_path(name: str) -> str:
    return f"reference/commands/{name}.md"


def on_page_content(html, page, config, files):
    """Keeps the name of a flag on one line, which a browser would break after its hyphens."""
    in_text = re.compile(r"--[\w-]+(?=[^<>]*<)")
    return re.sub(
        "<code.*?</code>",
        lambda found: in_text.sub(r'<span class="flag">\g<0></span>', found[0]),
        html,
        flags=re.DOTALL,
    )


def on_page_markdown(markdown, page, config, files):
    """Puts drawings into the page itself, where they take its colours, and the table of memory.

    Where they go is marked `<!-- drawing: NAME -->` and `<!-- table: memory -->`.
    """
    if MEMORY in markdown:
        markdown = markdown.replace(MEMORY, memory_table())
    for file in DRAWINGS.glob("*.svg"):
        figure = f'<div class="drawing">\n{file.read_text(encoding="utf-8")}</div>'
        markdown = markdown.replace(f"<!-- drawing: {file.stem} -->", figure)
    return markdown
