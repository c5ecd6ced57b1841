import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from concurrent.futures import ThreadPoolExecutor
from models.memory import keep_freed_memory
torch.set_num_threads(1)
kept = sys.argv[1] == "kept" and keep_freed_memory()
x = torch.rand(1 << int(sys.argv[2]))

def count():
    torch.set_num_threads(1)
    for _ in range(20):
        x + 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        x + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with ThreadPoolExecutor(1) as pool:
    print(int(kept), pool.submit(count).result() if sys.argv[3] == "thread" else count())
"""


def faults(how: str, *more: str) -> tuple[int, int]:
    ended = subprocess.run(
        [sys.executable, "-c", FAULTS, how, *more], check=True, capture_output=True, text=True
    )
    kept, count = ended.stdout.split()
    return int(kept), int(count)


@pytest.mark.parametrize(("size", "where"), [(23, "main"), (25, "thread")])
def test_tensors_that_follow_cost_no_page_faults(size, where):
    kept, with_it = faults("kept", str(size), where)
    if not kept:
        pytest.skip("this C library has no knobs for it")
    # pages of 4 KiB, or of 2 MiB where the system makes them huge
    plain = faults("plain", str(size), where)[1]
    assert plain >= 40 * (4 << size) // (2 << 20) and with_it < plain / 3
