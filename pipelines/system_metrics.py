"""What the machine does while runs train: CPU, memory and GPU, read by MLflow's own monitors.

MLflow's thread would write to a server that must be there; these go to the runs' journals like everything else.
"""

import contextlib
import logging
from typing import Any

import psutil


class SystemSampler:
    """Collects readings; `mean()` gives their average since the last call. Works without a GPU."""

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        # A GPU may lack one reading (MIG has no utilisation): it would be said every few seconds.
        logging.getLogger(GPUMonitor.__module__).setLevel(logging.ERROR)
        psutil.cpu_percent()  # the first reading has nothing to compare with
        self._monitors: list[Any] = [CPUMonitor()]  # type: ignore[no-untyped-call]
        with contextlib.suppress(Exception):  # no driver, no library, no permission: nothing to measure
            self._monitors.append(GPUMonitor())  # type: ignore[no-untyped-call]

    def read(self) -> None:
        """Take one reading."""
        for monitor in self._monitors:
            monitor.collect_metrics()

    def mean(self) -> dict[str, float]:
        """`system/…` metrics; without a reading only the process's memory."""
        found = {"process_memory_usage_megabytes": psutil.Process().memory_info().rss / 1e6}
        for monitor in self._monitors:
            found |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return {f"system/{name}": value for name, value in found.items()}
