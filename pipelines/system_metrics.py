"""What the machine does while a run trains: CPU, memory and GPU, under the names that MLflow's own monitor uses.

MLflow's monitor writes to a server that must be there; ours writes to the run's journal like everything else.
"""

from typing import Any

import psutil


class SystemSampler:
    """Collects readings; `mean()` gives their average since the last call. Works without a GPU."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._process = psutil.Process()
        psutil.cpu_percent(None)  # the first reading has nothing to compare with
        self._gpus = _gpus()

    def read(self) -> None:
        """Take one reading."""
        memory = psutil.virtual_memory()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(None),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "process_memory_usage_megabytes": self._process.memory_info().rss / 1e6,
        }
        for place, handle in enumerate(self._gpus):
            found |= _gpu(place, handle)
        for name, value in found.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def mean(self) -> dict[str, float]:
        """`system/…` metrics; empty without a reading."""
        found = {f"system/{name}": round(total / self._counts[name], 3) for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return found


def _gpus() -> list[Any]:
    try:
        import pynvml

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # no driver, no library, no permission: there is nothing to measure
        return []


def _gpu(place: int, handle: Any) -> dict[str, float]:
    import pynvml

    found: dict[str, float] = {}
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        found[f"gpu_{place}_memory_usage_megabytes"] = memory.used / 1e6
        found[f"gpu_{place}_memory_usage_percentage"] = 100.0 * memory.used / memory.total
        found[f"gpu_{place}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        found[f"gpu_{place}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000.0
    except pynvml.NVMLError:  # each reading may be missing on some devices (MIG has no utilisation)
        pass
    return found
