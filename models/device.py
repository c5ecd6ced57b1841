"""Which device to compute on."""

import torch

from models.errors import FoveaError


def chosen_device(name: str) -> str:
    """`auto` is the first GPU, or the CPU. Raises FoveaError for a GPU that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise FoveaError(f"--device {name}: torch sees no GPU here; use --device cpu")
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise FoveaError(f"--device {name}: not a device; say auto, cpu, cuda or cuda:N") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise FoveaError(f"--device {name}: the GPUs here are cuda:0 … cuda:{torch.cuda.device_count() - 1}")
    return name


def has_bfloat16(device: torch.device) -> bool:
    """Whether it multiplies bfloat16 numbers faster than float32's: a CPU without instructions for them takes three times as
    long."""
    if device.type != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
