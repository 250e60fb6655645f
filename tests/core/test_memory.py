import subprocess
import sys

import pytest

_PROGRAM = """
import resource
import numpy as np
from owl2_jax.core.memory import keep_freed_memory
assert keep_freed_memory() is True
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(50_000_000, np.uint8)
before = faults()
for _ in range(10):
    np.ones(50_000_000, np.uint8)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    result = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    pages_of_one_array = 50_000_000 // 4096
    assert int(result.stdout) < pages_of_one_array
