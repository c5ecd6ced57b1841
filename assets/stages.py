"""Every stage there is: the roof of the rooms, which nothing under it imports."""

from collections.abc import Mapping
from typing import Any

from assets.chain import Chain
from assets.evaluation.classical_stage import ClassicalRdPoints
from assets.evaluation.codec_stage import RdPoints
from assets.evaluation.curves_stage import RdCurves
from assets.evaluation.external_stage import ExternalRdPoints
from assets.evaluation.rates_stage import BdRates
from assets.evaluation.report_stage import Report
from assets.frames.archive_stage import CityscapesArchive
from assets.frames.stages import ResizedFrames, SourceFrames
from assets.graph import Stage
from assets.home import Home
from assets.saliency.benchmark_stage import SaliencyBenchmark
from assets.saliency.fixation_stage import FixationMaps
from assets.saliency.model_stage import SaliencyModel
from assets.saliency.stages import RgbaFrames, SaliencyMaps
from assets.training.stages import TrainedCodec, TrunkCodec

_IN_ORDER: tuple[Stage, ...] = (
    CityscapesArchive(),
    SourceFrames(),
    ResizedFrames(),
    FixationMaps(),
    SaliencyModel(),
    SaliencyBenchmark(),
    SaliencyMaps(),
    RgbaFrames(),
    TrunkCodec(),
    TrainedCodec(),
    ClassicalRdPoints(),
    RdPoints(),
    ExternalRdPoints(),
    RdCurves(),
    BdRates(),
    Report(),
)
#: by name, each after what it is made from
STAGES: Mapping[str, Stage] = {stage.name: stage for stage in _IN_ORDER}


def open_chain(home: Home | None = None, **options: Any) -> Chain:
    """A chain over all stages; home: default the environment's. options: as Chain takes them."""
    return Chain(home or Home.from_environment(), STAGES, **options)
