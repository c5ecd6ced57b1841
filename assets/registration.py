"""Registering a folder of pictures, as the command line and Dagster's form do it: looked at first, or not at all."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assets.chain import Chain
from assets.datasets import Dataset, add_dataset, format_size, put_back
from assets.graph import Waiting
from assets.home import Home
from assets.stages import open_chain
from models.config import SETTINGS_FILE, read_tables
from models.errors import FoveaError

Say = Callable[[str, bool], None]
"""Hears a line, and whether it warns."""


def register(home: Home, name: str, path: Path | str, say: Say, **options: Any) -> Dataset:
    """Register a folder (`add_dataset` has the options), and say what is in it. Raises FoveaError for what cannot be a dataset;
    then nothing is registered, or changed."""
    before = read_tables(home.config / SETTINGS_FILE, "datasets").get(name)
    dataset = add_dataset(home.config, name, path, **options)
    try:
        if look(open_chain(home), name, say) == 0:
            raise FoveaError(f"{path}: none of its pictures can be used (reasons above)")
    except BaseException:
        put_back(home.config, name, before)
        raise
    return dataset


def look(chain: Chain, name: str, say: Say) -> int:
    """Say what is in a dataset: counts by split, sizes, what was quarantined and why, and what it lacks. Returns how many
    pictures can be used."""
    from assets.evaluation.numerals import counted
    from assets.frames.folder import find_pictures, with_ending

    table = chain.given["source_frames", name].part("files")
    good = table[table.status == "ok"]
    if len(good):  # what frames could not be made of, as far as that was tried
        good = good[good.image.isin(chain.given["resized_frames", name].part("frames").image)]
    counts = ", ".join(f"{int((good.split == s).sum())} {s}" for s in ("train", "val", "test"))
    dataset = chain.world.dataset(name)
    unused = len(find_pictures(dataset.root())) - len(table) if dataset.kind == "folder" else 0
    say(f"{name}: {counted(len(good))} ({counts}{f'; {unused} more in no split' if unused else ''})", False)
    sizes = Counter(zip(good.width, good.height, strict=True)).most_common()
    said = ", ".join(f"{w}×{h} ({n})" for (w, h), n in sizes[:5])
    say(f"sizes: {said}{' …' if len(sizes) > 5 else ''}", False)
    broken = [(with_ending(row.image, row.path), row.reason) for row in table[table.status != "ok"].itertuples()]
    broken += [(row["image"], row["reason"]) for row in undecoded(chain, name)]
    for line in [*(f"quarantined {image}: {reason}" for image, reason in broken), *_lacks(dataset, good)]:
        say(line, True)
    for line in _beside(chain, dataset, table):
        say(line, False)
    return len(good)


def undecoded(chain: Chain, name: str) -> list[dict[str, str]]:
    """Pictures that turned out broken when frames were made of them: `image` and `reason` of each."""
    try:
        found = chain.made("resized_frames", name).manifest["meta"].get("quarantined", [])
    except Waiting:
        return []
    return list(found)


def _lacks(dataset: Dataset, good: Any) -> list[str]:
    """What a dataset is not fit for, in words. good: its pictures that can be used."""
    from assets.evaluation.numerals import counted
    from assets.evaluation.rate_distortion import MIN_IMAGES
    from assets.frames.resize import fit

    name, said = dataset.name, []
    measured = next((s for s in ("test", "val") if s in set(good.split)), "")
    lacks, few = [], int((good.split == measured).sum())
    if measured != "test":
        lacks.append("no test picture (codecs are measured on val)" if measured else "nothing to measure on")
    if measured and few < MIN_IMAGES:
        lacks.append(
            f"{counted(few, f'{measured} picture')} (with fewer than {MIN_IMAGES} no comparison has an interval)"
        )
    if len(good) < sum(dataset.splits.counts or ()):
        lacks.append(f"fewer pictures that can be used than its splits, {dataset.splits.to_toml()}, ask for")
    if lacks:
        said.append(f"{name} has {'; '.join(lacks)}: {dataset.way_to('test')}")
    if set(good.split) == {"train", "test"}:
        said.append(f"{name} has no val picture: trainings are watched on training pictures alone")
    frames = [fit(size, dataset.size) for size in zip(good.width, good.height, strict=True)]
    of = f"of {counted(len(good))} of {name}"
    if dataset.size != "native" and (small := sum(frame.size != dataset.size for frame in frames)):
        said.append(f"smaller than {format_size(dataset.size)}, so cut to its aspect and not enlarged: {small} {of}")
    jpeg = good.path.str.lower().str.endswith((".jpg", ".jpeg"))
    jpegs = sum(is_one and frame.scale == (1, 1) for is_one, frame in zip(jpeg, frames, strict=True))
    if jpegs and dataset.kind == "folder":
        said.append(
            f"{jpegs} {of} are JPEG files at their own size: their blocks are cheap for JPEG, which looks better than it is. To "
            "shrink them: the same command with --size WxH"
        )
    return said


def _beside(chain: Chain, dataset: Dataset, table: Any) -> list[str]:
    """What there is of eyes, texts and maps. Raises FoveaError for tables that cannot be read and maps that are not there."""
    said = []
    if path := dataset.fixations:
        from assets.saliency.fixations import read_fixations

        found = read_fixations(path, table)
        eyes = found.table
        more = f"; left out: {found.why()}" if found.why() else ""
        said.append(
            f"fixations: {len(eyes)} of {eyes.subject.nunique()} people on {eyes.image.nunique()} pictures{more}"
        )
    if file := dataset.texts:
        from assets.frames.texts import read_texts

        texts = read_texts(file, table)
        said.append(f"texts: {len(texts)} on {texts.image.nunique()} pictures")
    if dataset.maps:
        from assets.saliency.own_maps import keyed_own_maps

        keyed_own_maps(dataset, chain.given["resized_frames", dataset.name].part("frames"), chain.home.state / "cache")
        said.append(f"maps: one for each picture, in {dataset.maps}")
    return said
