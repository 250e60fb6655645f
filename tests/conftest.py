"""Eight fake CPU devices for every run, and the small model that many tests share."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version

# Read once, when JAX starts; nothing above this line may import it. The tests
# run hundreds of tiny programs once each, so compiling them is nearly all of
# their time: without LLVM's optimisation they take a quarter of it.
_FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):  # XLA stops at a flag it does not know
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
    # Both cores have tests to run: a program in 32 parts, for as many threads, takes a third more of them.
    _FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
gc.set_threshold(50_000, 20, 50)  # as in the commands (`owl2_jax.cli.main.run`)

# A program is compiled once in a run of the tests: its workers and the processes that they
# start load what another one compiled, or they themselves before a command or a clean-up.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["OWL2_COMPILATION_CACHE"] = tempfile.mkdtemp(prefix="owl2-programs-")
    atexit.register(shutil.rmtree, os.environ["OWL2_COMPILATION_CACHE"], ignore_errors=True)

from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

from owl2_jax.core.compilation_cache import keep_programs_in  # noqa: E402
from owl2_jax.core.host_memory import give_back_free_memory  # noqa: E402
from owl2_jax.testing import tiny  # noqa: E402

keep_programs_in(Path(os.environ["OWL2_COMPILATION_CACHE"]), print)


@pytest.fixture(scope="session")
def golden_directory() -> Path:
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def tiny_config():
    return tiny.tiny_config()


@pytest.fixture(scope="session")
def tiny_params(tiny_config):
    return tiny.tiny_params(tiny_config)


@pytest.fixture(scope="session")
def toy_tokenizer():
    return tiny.toy_tokenizer()


@pytest.fixture(scope="session")
def bucket_server():
    """A store of buckets for the tests that ask for one; see `tests.bucket_server`."""
    from tests import bucket_server as servers

    with pytest.MonkeyPatch.context() as patch, servers.started() as server:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(bucket_server, request):
    """A folder of its own in the bucket of `bucket_server`, which answers without faults."""
    from owl2_jax.core.paths import as_path
    from tests import bucket_server as servers

    yield as_path(f"gs://{servers.BUCKET}/{request.node.name.replace('[', '-').replace(']', '')}")
    bucket_server.fail, bucket_server.delay = (lambda method, path: None), 0.0


@pytest.fixture(autouse=True, scope="module")
def _memory():
    """Gives free memory and the programs of tests that are over back: commands ask glibc to keep it."""
    yield
    if _resident_bytes() > 2 * 2**30:
        jax.clear_caches()
        gc.collect()
        give_back_free_memory()


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.fixture(scope="session")
def s3_server():
    """Amazon's store for the tests that ask for it; see `tests.s3_server`."""
    from tests import s3_server as servers

    with pytest.MonkeyPatch.context() as patch, servers.started() as server:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def s3_bucket(s3_server, request):
    """A folder of its own in the bucket of `s3_server`, which answers without faults."""
    from owl2_jax.core.paths import as_path
    from tests import s3_server as servers

    yield as_path(f"s3://{servers.BUCKET}/{request.node.name.replace('[', '-').replace(']', '')}")
    s3_server.fail, s3_server.delay = (lambda method, path: None), 0.0


@pytest.fixture(params=["gs", "s3"])
def any_bucket(request):
    """A folder of its own in the bucket of either store."""
    return request.getfixturevalue({"gs": "bucket", "s3": "s3_bucket"}[request.param])


@pytest.fixture
def any_server(any_bucket, request):
    """The store of `any_bucket`, to be told what fails."""
    return request.getfixturevalue({"gs:": "bucket_server", "s3:": "s3_server"}[str(any_bucket)[:3]])
