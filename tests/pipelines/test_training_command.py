import os
import subprocess
import sys

import pytest
from commands import ROOT
from servers.ports import free_port

from pipelines.commands.training import _ended_together

#: a rank of two, of which the second is killed while the first waits for it
RANK = """
import os, signal
from models.errors import FoveaError
from models.training.ranks import join
from pipelines.commands.training import _ended_together
try:
    with _ended_together(), join("cpu") as (ranks, _):
        ranks.told(lambda: b"both are here")
        if not ranks.first:
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.wait()
except FoveaError as error:
    print(error)
"""


def test_a_rank_says_in_a_line_that_another_one_is_gone() -> None:
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", RANK],
            env=os.environ | given | {"RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    said, errors = first.communicate(timeout=120)
    second.communicate(timeout=120)
    assert second.returncode < 0 and first.returncode == 0, errors
    assert said.startswith("another process of this training ended, so rank 0 does, too") and said.count("\n") == 1
    with pytest.raises(RuntimeError, match="shapes"), _ended_together():
        raise RuntimeError("shapes differ")
