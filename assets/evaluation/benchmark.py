"""`fovea benchmark`: codecs that are trained already, held against each other and against classical ones.

Judges (models/judges.py) are asked about the files of points that are measured: these are made again, once for each new
judge, and its columns are kept in the store beside what they are about.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pandas as pd

from assets.chain import Chain
from assets.evaluation.bd_rate import bd_rates
from assets.evaluation.checkpoints import externals
from assets.evaluation.measure import Subject
from assets.evaluation.pieces import POINTS, measured_table, subjects_of
from assets.evaluation.rate_distortion import CLASSICAL_ARM, concat_points, rd_curves
from assets.evaluation.report import render_report
from assets.frames.texts import drawn_texts, frame_texts, read_texts
from assets.graph import Progress, silent
from assets.saliency.pairs import open_pairs
from assets.store import digest
from assets.versions import code_version
from assets.world import World, evaluation_key
from models.codecs import classical
from models.codecs.catalogue import load_codec, shipped
from models.errors import FoveaError
from models.judges import JUDGES, Opened, Picture, Text
from models.threads import check_stopped
from models.validation import unknown

if TYPE_CHECKING:
    from models.legibility import Reader

SWEEP = "shipped"
"""The sweep of the codecs that ship, as they are."""
SHELF = "judged_points"
_ROW = ["codec", "rate", "image"]


class Benchmark(NamedTuple):
    """Tables as `rd_points`, `rd_curves` and `bd_rates` give them, the page, and a line on each judge."""

    points: pd.DataFrame
    curves: pd.DataFrame
    rates: pd.DataFrame
    page: str
    lines: list[str]


def chosen(
    world: World, dataset: str, codecs: Sequence[str], peers: Sequence[str] = (), judges: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Stage and partition of what is measured: of shipped codecs each arm, of an experiment's key the experiment, classical
    codecs and checkpoints from elsewhere. codecs: empty for all that ship. Raises FoveaError for a dataset, a codec or a
    judge that is not known, and for a peer that the dataset is not measured with."""
    measured = world.dataset(dataset).classical
    if missing := [p for p in peers if p not in measured]:
        raise FoveaError(f"--peers {missing[0]}: {dataset} is measured with {', '.join(measured)}")
    if strange := [j for j in judges if j not in JUDGES]:
        raise FoveaError(f"--judge: {unknown('judge', strange[0], JUDGES)}")
    ships = world.sweeps[f"{dataset}.{SWEEP}"].experiments
    known = sorted({e.codec for e in ships})
    found = [e for e in ships if not codecs or e.codec in codecs]
    for name in codecs:
        if name in world.experiments:
            found.append(world.experiments[name])
        elif name not in known:
            hint = " (shipped, but not in the sweep)" if name in shipped() else ""
            raise FoveaError(
                f"{unknown('codec', name, known)}{hint}; or give an experiment's key (fovea status --keys)"
            )
    return [
        *(("rd_points", evaluation_key(e.key, dataset)) for e in found),
        ("classical_rd_points", dataset),
        *(("external_rd_points", e.partition) for e in externals(world.home.config, dataset)),
    ]


def benchmark_of(
    chain: Chain,
    dataset: str,
    pieces: Sequence[tuple[str, str]],
    peers: Sequence[str] = (),
    judges: Sequence[str] = (),
    progress: Progress = silent,
) -> Benchmark:
    """Curves, BD-rates and page of pieces that are made. peers: the classical codecs to show, empty for all. judges: of
    models/judges.py, left out with a line where they cannot judge."""
    jury, lines = seats(chain, dataset, judges) if judges else ([], [])
    points = concat_points(judged(chain, piece, jury, peers, progress) for piece in pieces)
    classical = points["arm"] == CLASSICAL_ARM
    if peers:
        points = points[~classical | points["codec"].isin(peers)]
    curves, rates = rd_curves(points), bd_rates(points, sweep="benchmark")
    said = {
        "sweep": f"{dataset}.benchmark",
        "pictures": int(points["image"].nunique()),
        "codecs": ", ".join(sorted(set(points["codec"]))),
        "training": "none: codecs as they ship, or as their experiments left them",
        "judges": "; ".join(lines),
    }
    return Benchmark(points, curves, rates, render_report(curves=curves, rates=rates, provenance=said), lines)


class Seat(NamedTuple):
    """A judge by name, with the texts of each measured picture."""

    name: str
    judge: Opened
    texts: list[list[Text]]


#: codec, rate and size in bytes of files of a picture, to codec, rate and what each shows
Again = Callable[[Subject, Mapping[tuple[str, float], int]], Iterator[tuple[str, float, Picture]]]


def texts_of(chain: Chain, dataset: str) -> pd.DataFrame | None:
    """The dataset's texts as `read_texts` gives them, None where it has none."""
    record, frames = chain.world.dataset(dataset), chain.given["source_frames", dataset]
    if record.kind == "sample":
        return drawn_texts(frames.folder)
    return read_texts(record.texts, frames.part("files")) if record.texts else None


def seats(chain: Chain, dataset: str, names: Sequence[str]) -> tuple[list[Seat], list[str]]:
    """The judges of these names, and a line on each: what it is, what it counts, or why it is left out."""
    table, found, lines = measured_table(chain, dataset), list[Seat](), []
    for name in names:
        known = texts_of(chain, dataset) if JUDGES[name].texts else None
        if lacks := JUDGES[name].lacks():
            lines.append(f"{name} is left out: {lacks}")
        elif JUDGES[name].texts and known is None:
            how = f"fovea datasets add {dataset} FOLDER --texts TABLE, or texts = under [datasets.{dataset}] in fovea.toml"
            lines.append(f"{name} is left out: {dataset} has no texts ({how})")
        else:
            blank: list[list[Text]] = [[] for _ in range(len(table))]
            texts = blank if known is None else frame_texts(chain.world.dataset(dataset), known, table)
            found.append(Seat(name, JUDGES[name].opened(name), texts))
            lines.append(f"{name}: {found[-1].judge.about}")
            lines += _counted(chain, dataset, found[-1]) if JUDGES[name].texts else []
    return found, lines


def _counted(chain: Chain, dataset: str, seat: Seat) -> list[str]:
    """How many texts count, and which do not."""
    pictures, judge = open_pairs(chain, dataset, "measured", maps="none").pictures, cast("Reader", seat.judge)
    shares = [share for picture, own in zip(pictures, seat.texts, strict=True) for share in judge.shares(picture, own)]
    texts = [text.text for own in seat.texts for text in own]
    out = sorted(text for text, share in zip(texts, shares, strict=True) if share < 1)
    said = f"{len(texts) - len(out)} of {len(texts)} texts count: read without a fault in the original at this size"
    return [f"{seat.name}: {said}", *([f"{seat.name}: not {', '.join(out)}"] if out else [])]


def judged(
    chain: Chain, piece: tuple[str, str], jury: Sequence[Seat], peers: Sequence[str] = (), progress: Progress = silent
) -> pd.DataFrame:
    """The points of a piece (stage, partition) with the jury's columns. peers: of classical codecs those to judge, empty for
    all. Raises FoveaError where a file that is made again is another than the one that was measured."""
    made = chain.made(*piece)
    points: pd.DataFrame = made.table(POINTS)
    if piece[0] == "external_rd_points":
        return points
    keys = {}
    for name, judge, texts in jury:
        code = code_version(JUDGES[name].module, apart=("models.judges",))
        keys[name] = digest([made.unit.digest, list(peers), name, judge.about, code, texts])
    if new := [seat for seat in jury if not chain.store.has(SHELF, keys[seat.name])]:
        asked = points[points["codec"].isin(peers)] if peers and piece[0] == "classical_rd_points" else points
        tables = _measure(chain, piece, new, asked, progress)
        for seat, rows in zip(new, tables, strict=True):
            with chain.store.writing(SHELF, keys[seat.name]) as writer:
                pd.DataFrame(rows).to_parquet(writer.path(POINTS), index=False)
    for key in keys.values():
        points = points.merge(pd.read_parquet(chain.store.path(SHELF, key, POINTS)), on=_ROW, how="left")
    return points


def _measure(
    chain: Chain, piece: tuple[str, str], jury: Sequence[Seat], measured: pd.DataFrame, progress: Progress
) -> list[tuple[dict[str, Any], ...]]:
    """Rows for each of the jury. measured: the points whose files are judged."""
    from models.codecs.batch import in_order

    experiment, _, dataset = piece[1].rpartition("@")
    subjects, files = files_again(chain, dataset, experiment)

    def some(item: tuple[int, Subject]) -> list[list[dict[str, Any]]]:
        place, subject = item
        verdicts = [seat.judge.sees(subject.picture, seat.texts[place], subject.fixation_map) for seat in jury]
        own = measured[measured["image"] == subject.image]
        sizes = dict(zip(zip(own["codec"], own["rate"], strict=True), own["bytes"], strict=True))
        rows = []
        for codec, rate, shown in files(subject, sizes):
            check_stopped()
            row = {"codec": codec, "rate": rate, "image": subject.image}
            rows.append([row | verdict(shown) for verdict in verdicts])
        return rows

    found: list[list[dict[str, Any]]] = []
    for done, rows in enumerate(in_order(some, list(enumerate(subjects)), threads=chain.threads), 1):
        found += rows
        progress(done, len(subjects), "pictures judged")
    return [*zip(*found, strict=True)]


def files_again(chain: Chain, dataset: str, experiment: str) -> tuple[Sequence[Subject], Again]:
    """The measured pictures, and what makes files of one again, which raises FoveaError for a file that is another than the one
    that was measured. experiment: a training's key, "" for classical codecs."""
    codec: Any = load_codec(chain.made("trained_codec", experiment).folder / "codec") if experiment else None
    if codec is not None:
        codec.name()  # known before threads ask for it at once

    def files(subject: Subject, sizes: Mapping[tuple[str, float], int]) -> Iterator[tuple[str, float, Picture]]:
        given = codec.analysed(subject.picture, subject.condition) if codec is not None and sizes else None
        for (name, rate), size in sizes.items():
            if codec is None:
                data = classical.encode(name, rate, subject.picture, subject.saliency_map)
                shown = classical.decode(name, data)
            else:
                encoded = codec.encode_analysed(given, rate)
                data, shown = encoded.data, encoded.reconstruction
            if len(data) != size:
                raise FoveaError(
                    f"{subject.image}: {name} at {rate:g} is {len(data)} bytes here, {size} where it was measured, on another "
                    "machine perhaps: measure it here, in a FOVEA_HOME of its own"
                )
            yield name, rate, shown

    return subjects_of(chain, dataset, chain.world.experiment(experiment).maps if experiment else "none"), files
