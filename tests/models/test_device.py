import pytest
import torch

from models.device import has_bfloat16
from models.training.soap import Soap


@pytest.fixture(
    params=[{"avx512_f": True, "avx512_bf16": False}, {"avx512_bf16": True}, {"bf16": True, "neon": True}, {}]
)
def able(request, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: request.param)
    return any(name.endswith("bf16") and held for name, held in request.param.items())


def test_a_processor_is_asked_for_instructions_of_its_own(able):
    assert has_bfloat16(torch.device("cpu")) == able and has_bfloat16(torch.device("cuda"))


def test_soap_takes_bfloat16_where_the_processor_has_it(able, monkeypatch):
    seen, weight = [], torch.nn.Parameter(torch.eye(3))
    optimiser = Soap([weight])
    monkeypatch.setattr(optimiser, "_move", lambda *_: seen.append(torch.backends.mkldnn.matmul.fp32_precision))
    weight.grad = torch.ones(3, 3)
    optimiser.step()
    assert (seen == ["bf16"]) == able
