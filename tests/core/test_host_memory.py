import subprocess
import sys

import pytest

_PROGRAM = """
import resource
import numpy as np
from owl2_jax.core.host_memory import keep_freed_memory
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


_COLLAPSE = """
import jax
from owl2_jax.core.host_memory import collapse_into_huge_pages, keep_freed_memory
keep_freed_memory()
arrays = [jax.random.normal(jax.random.key(i), (512, 512)) for i in range(20)]
sums = [float(x.sum()) for x in arrays]
moved = collapse_into_huge_pages(arrays)
assert [float(x.sum()) for x in arrays] == sums
huge = sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages"))
print(moved // 1024, huge)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="madvise is Linux's")
def test_arrays_move_into_huge_pages_and_stay_what_they_are() -> None:
    result = subprocess.run([sys.executable, "-c", _COLLAPSE], capture_output=True, text=True, check=True)
    moved, huge = map(int, result.stdout.split())
    assert moved <= huge, "it says what the kernel did; an old kernel moves nothing"


_TORN = """
import numpy as np
from owl2_jax.core.host_memory import give_back_free_memory, keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
keep_freed_memory()
large = np.ones(200_000_000, np.uint8)
lasting = np.ones(100_000, np.uint8)
before = resident()
del large
kept = resident()
assert give_back_free_memory() is True
print(before - kept, kept - resident(), int(lasting.sum()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_gaps_below_lasting_memory_are_given_back() -> None:
    result = subprocess.run([sys.executable, "-c", _TORN], capture_output=True, text=True, check=True)
    freed, given_back, lasting = map(int, result.stdout.split())
    assert freed < 10_000_000, "kept at first"
    assert given_back > 190_000_000
    assert lasting == 100_000
