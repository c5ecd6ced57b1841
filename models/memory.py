"""Memory that a process gives back and takes again costs more than the arithmetic on it; here it stays."""

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of malloc.h
_LARGEST = (1 << 31) - 1


@functools.cache
def keep_freed_memory() -> bool:
    """From now on this process keeps what tensors on the CPU free for those that follow: at worst its peak stays with it.
    True where that works.

    glibc's malloc maps each block of some megabytes anew and unmaps it when it is freed, so that every layer of a codec
    on a picture first pays a page fault for each 4 KiB, under a lock that all threads share: on a virtual machine several
    times what the layer's arithmetic takes. Threads share one arena from here on, since the others map whatever is larger
    than 64 MiB. No result changes by a bit. Only glibc has the knobs; elsewhere nothing happens. Call it before threads
    start, where tensors are computed on the CPU.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(bool(mallopt(*knob)) for knob in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST)))


class Room:
    """Memory that several threads share out among themselves."""

    def __init__(self, size: float):
        """size: in any unit."""
        self.size = self.free = size
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, wanted: float) -> Iterator[None]:
        """Wait until so much is free, and hold it. Who wants more than there is waits until all is free."""
        wanted = min(wanted, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self.free >= wanted)
            self.free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self.free += wanted
                self._changed.notify_all()


def physical_bytes() -> int:
    """Of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
