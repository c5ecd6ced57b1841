"""Maps of one's own: a file for each picture, grey, in place of what a saliency model says."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assets.frames.decode import read_picture
from assets.frames.manifest import inspect_all
from assets.frames.resize import Size, resize
from assets.store import digest
from assets.versions import code_version
from models.errors import FoveaError
from models.saliency.maps import scale_to_uint8

if TYPE_CHECKING:
    import pandas as pd

    from assets.datasets import Dataset
    from assets.graph import Row

Map = NDArray[np.uint8]


def find_maps(maps: Path, sources: Sequence[Path]) -> dict[Path, Path | FoveaError]:
    """Each picture's map, or why it has none: the file `maps`, or one of the picture's name in the folder `maps`, in the same
    folders below it as the picture lies in where there are such (pics/a/1.png: maps/a/1.png before maps/1.png). No file is the
    map of two pictures."""
    if not maps.is_dir():
        return dict.fromkeys(sources, maps)
    listed: dict[Path, dict[str, list[Path]]] = {}

    def find(source: Path) -> Path | FoveaError:
        parts = source.parent.absolute().parts[1:]
        for folder in (maps.joinpath(*parts[k:]) for k in range(len(parts) + 1) if ".." not in parts[k:]):
            if folder not in listed:
                listed[folder] = {}
                for file in sorted(folder.iterdir()) if folder.is_dir() else ():
                    if file.is_file():
                        listed[folder].setdefault(file.stem, []).append(file)
            # a.jpg.png is what `fovea saliency` makes of a.jpg beside an a.png
            found = listed[folder].get(source.name) or listed[folder].get(source.stem, [])
            if len(found) == 1:
                return found[0]
            if found:
                return FoveaError(
                    f"{folder} has {len(found)} maps for {source.name}: one file with the same name is needed"
                )
        return FoveaError(f"{maps} has no map for {source.name}: one file with the same name is needed")

    found = {source: find(source) for source in sources}
    used = Counter(path for path in found.values() if isinstance(path, Path))
    for source, path in found.items():
        if isinstance(path, Path) and used[path] > 1:
            found[source] = FoveaError(
                f"{path} would be the map of {used[path]} pictures: {maps} needs the pictures' folders, with a map of each"
            )
    return found


def own_map(path: Path, source: Path, shape: tuple[int, ...]) -> Map:
    """The map of the picture `source`, whose shape begins with H, W: H×W uint8, a saliency map, or a label map that is 0 where
    nothing matters. Raises FoveaError for colours, and for another size than the picture's."""
    shown = read_picture(path)
    if (shown != shown[..., :1]).any():
        raise FoveaError(
            f"{path} has colours: a map is grey, 0 where nothing matters, as `fovea saliency` writes it without --overlay"
        )
    if shown.shape[:2] != shape[:2]:
        raise FoveaError(f"{path} has {shown.shape[1]}×{shown.shape[0]} pixels, {source} has {shape[1]}×{shape[0]}")
    return np.ascontiguousarray(shown[..., 0])


def keyed_own_maps(dataset: "Dataset", table: "pd.DataFrame", cache: Path) -> "pd.DataFrame":
    """Frames with `map_file`, where each one's map is, and its key by content: `map_key`. cache: keeps checksums, as for
    pictures. Raises FoveaError where a picture has no map, or one that is no picture."""
    if dataset.maps is None or not dataset.maps.is_dir():
        raise FoveaError(f"dataset {dataset.name!r}: no folder {dataset.maps} with its maps")
    found = find_maps(dataset.maps, [Path(path) for path in table.path])
    wrong = [str(file) for file in found.values() if isinstance(file, FoveaError)]
    files = [file for path in table.path if isinstance(file := found[Path(path)], Path)]
    inspected, _ = inspect_all(dataset.maps, sorted({f.relative_to(dataset.maps).as_posix() for f in files}), cache)
    wrong += [f"{dataset.maps / name}: {one.reason}" for name, one in inspected.items() if one.reason]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise FoveaError(f"dataset {dataset.name!r}: not every picture has a map of its own: {wrong[0]}{more}")
    code = code_version(__name__)
    seen = {dataset.maps / name: one.sha256 for name, one in inspected.items()}
    keys = [digest({"frame": key, "map": seen[file], "code": code}) for key, file in zip(table.key, files, strict=True)]
    return table.assign(map_key=keys, map_source=0, map_seen=False, map_file=[str(file) for file in files])


def frame_map(row: "Row", size: Size) -> Map:
    """A frame's map, from the file that `keyed_own_maps` found: cut and area-resized as the picture was, then scaled to a
    maximum of 255. Raises FoveaError for what `own_map` refuses."""
    shape = (int(row["height"]), int(row["width"]))
    return scale_to_uint8(resize(own_map(Path(row["map_file"]), Path(row["path"]), shape), size).astype(np.float32))
