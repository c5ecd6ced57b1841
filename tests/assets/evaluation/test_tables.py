"""Tables are the concatenation of the current pieces in the store."""

from pathlib import Path

import pandas as pd
from upath import UPath

from assets.chain import Chain
from assets.evaluation.tables import write_tables
from assets.graph import Unit
from assets.home import Home
from assets.stages import open_chain


def keep(chain: Chain, partition: str, files: dict[str, pd.DataFrame]) -> None:
    unit = Unit("bd_rates", partition, {"partition": partition})
    with chain.store.writing(unit.stage, unit.key) as writer:
        for name, table in files.items():
            table.to_parquet(writer.path(name), index=False)
    chain._remember(unit)


def test_a_piece_without_a_later_versions_file_is_left_out(tmp_path: Path) -> None:
    chain = open_chain(Home(tmp_path / "home", tmp_path, UPath(tmp_path / "data")))
    rates = pd.DataFrame({"dataset": ["a"], "bd_rate_percent": [-3.0]})
    keep(chain, "a.one", {"bd_rates.parquet": rates})
    keep(chain, "b.two", {"bd_rates.parquet": rates, "ideal.parquet": rates.assign(dataset="b")})
    write_tables(chain)
    assert len(pd.read_parquet(chain.home.tables / "bd_rates.parquet")) == 2
    assert list(pd.read_parquet(chain.home.tables / "ideal.parquet").dataset) == ["b"]
    assert not (chain.home.tables / "rd_curves.parquet").exists()
