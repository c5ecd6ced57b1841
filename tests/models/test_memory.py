import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from models.memory import keep_freed_memory
torch.set_num_threads(1)
kept = sys.argv[1] == "kept" and keep_freed_memory()
x = torch.rand(1 << 23)
for _ in range(20):
    x + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    x + 1
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[int, int]:
    ended = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True)
    kept, count = ended.stdout.split()
    return int(kept), int(count)


def test_tensors_that_follow_cost_no_page_faults():
    kept, with_it = faults("kept")
    if not kept:
        pytest.skip("this C library has no knobs for it")
    # 32 MiB at a time in pages of 4 KiB, or of 2 MiB where the system makes them huge
    plain = faults("plain")[1]
    assert plain >= 40 * 16 and with_it < plain / 3
