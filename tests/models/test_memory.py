import subprocess
import sys

import pytest

#: forks from one process: importing torch costs more than all that is counted
FAULTS = """
import os, resource, torch
from concurrent.futures import ThreadPoolExecutor
from models.memory import keep_freed_memory

def count():
    torch.set_num_threads(1)
    for _ in range(8):
        x + 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(12):
        x + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for size, thread in ((23, False), (25, True)):
    for keep in (True, False):
        if os.fork() == 0:
            torch.set_num_threads(1)
            kept = keep and keep_freed_memory()
            x = torch.rand(1 << size)
            with ThreadPoolExecutor(1) as pool:
                print(size, int(kept), pool.submit(count).result() if thread else count(), flush=True)
            os._exit(0)
        assert os.wait()[1] == 0
"""


def test_tensors_that_follow_cost_no_page_faults():
    ended = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    found = [[int(word) for word in line.split()] for line in ended.stdout.splitlines()]
    assert [size for size, *_ in found] == [23, 23, 25, 25]
    for (size, kept, with_it), (_, _, plain) in zip(found[::2], found[1::2], strict=True):
        if not kept:
            pytest.skip("this C library has no mallopt to keep freed memory with, as musl has none")
        # pages of 4 KiB, or of 2 MiB where the system makes them huge
        assert plain >= 12 * (4 << size) // (2 << 20) and with_it < plain / 3
