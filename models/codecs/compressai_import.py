"""The parts of CompressAI that codecs are built from, without loading the rest of it.

`import compressai` runs a package file that imports everything CompressAI has, point-cloud data sets with
torch_geometric included: more than half of its import time, for nothing that an image codec uses. The modules imported
below need none of that. So the package enters `sys.modules` with its package file not yet run, and that file runs the
moment somebody asks the package for anything that is not there, `compressai.zoo` for example. Who imports CompressAI
first, or torch_geometric at any time, gets what they always get.

`scipy.stats`, which its entropy models ask for one quantile when tables are built, waits in the same way: it takes half
as long to import as torch.
"""

import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """A package until its own file has run in this very module: when something is asked of it that is not there."""

    _lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        spec = self.__spec__
        with _Package._lock:
            # while the file runs, a name that is missing is a submodule that the import system goes and loads
            self.__class__ = ModuleType  # type: ignore[assignment]
            try:
                if spec is not None and spec.loader is not None:
                    spec.loader.exec_module(self)
            except BaseException:
                self.__class__ = _Package
                raise
        return getattr(self, name)


def _enter(name: str) -> ModuleType:
    """Put the package into `sys.modules`, where it is not there yet, without running its file."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is not None and spec.submodule_search_locations is not None:
        sys.modules[name] = importlib.util.module_from_spec(spec)
        sys.modules[name].__class__ = _Package
    return sys.modules.get(name, ModuleType(name))  # where it is missing, the imports below say so


_compressai = _enter("compressai")
if type(_compressai) is _Package:
    # what an entropy model asks the package for when it is made; the package file defines its own
    vars(_compressai).update(get_entropy_coder=lambda: "ans", available_entropy_coders=lambda: ["ans"])
_enter("scipy.stats")

from compressai.ans import BufferedRansEncoder, RansDecoder, RansEncoder  # noqa: E402
from compressai.entropy_models import EntropyBottleneck  # noqa: E402
from compressai.entropy_models.entropy_models import pmf_to_quantized_cdf  # noqa: E402
from compressai.layers import GDN  # noqa: E402

__all__ = ["GDN", "BufferedRansEncoder", "EntropyBottleneck", "RansDecoder", "RansEncoder", "pmf_to_quantized_cdf"]
