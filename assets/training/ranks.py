"""Making a unit with several processes: rank 0 makes it, the others train beside it and write nothing."""

from assets.chain import Chain
from assets.graph import Made, Progress, silent
from assets.training.run import prepared
from models.device import chosen_device
from models.errors import FoveaError
from models.tracking import Run
from models.training.loop import train
from models.training.ranks import Ranks

TRAINED = ("trunk_codec", "trained_codec")


def make_with(chain: Chain, ranks: Ranks, stage: str, partition: str, progress: Progress = silent) -> Made | None:
    """What `Chain.make` does, with the training of a codec shared by all ranks; None on every rank but the first.

    Each rank calls this with equal arguments, and a chain on the same FOVEA_HOME. Raises FoveaError on every rank when
    rank 0 cannot make it.
    """
    if ranks.alone:
        return chain.make(stage, partition, progress)
    made: Made | None = None
    if not ranks.first:
        if ranks.called():
            _accompany(chain, stage, partition)
    else:
        begun = ranks.begun
        try:
            made = chain.make(stage, partition, progress)
        finally:
            if ranks.begun == begun:
                ranks.dismiss()
    ranks.wait()
    chain.forget()
    return made


def _accompany(chain: Chain, stage: str, partition: str) -> None:
    """Train with the others what rank 0 writes."""
    if stage not in TRAINED:
        raise FoveaError(f"{stage} is not trained by several processes")
    entry = chain.world.trunks[partition] if stage == "trunk_codec" else chain.world.experiment(partition)
    given = prepared(chain.bench(stage, partition), entry)
    train(
        given.objective,
        workdir=chain.home.work / "other-ranks",
        tracker_run=Run(),
        device=chosen_device(chain.device),
        threads=chain.threads,
        checkpoint_every=given.checkpoint_every,
    )
