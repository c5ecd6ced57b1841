import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from trainings import driven

from models.memory import Room

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
    found = [[int(word) for word in line.split()] for line in driven("-c", FAULTS).splitlines()]
    assert [size for size, *_ in found] == [23, 23, 25, 25]
    for (size, kept, with_it), (_, _, plain) in zip(found[::2], found[1::2], strict=True):
        if not kept:
            pytest.skip("this C library has no mallopt to keep freed memory with, as musl has none")
        # pages of 4 KiB, or of 2 MiB where the system makes them huge
        assert plain >= 12 * (4 << size) // (2 << 20) and with_it < plain / 3


def test_a_room_is_never_overfull_and_the_largest_has_its_turn() -> None:
    room, lock, used, most = Room(10), threading.Lock(), [0.0], list[float]()

    def work(wanted: float) -> None:
        with room.taken(wanted):
            with lock:
                used[0] += min(wanted, 10)
                most.append(used[0])
            time.sleep(0.005)
            with lock:
                used[0] -= min(wanted, 10)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, [4, 5, 99, 3, 3, 3, 10, 1, 6, 6]))
    assert max(most) <= 10 and len(most) == 10 and room.free == 10
    with pytest.raises(ValueError, match="no"), room.taken(7):
        raise ValueError("no")
    assert room.free == 10
