"""Fovea's frame path against Pillow's, CPU time a picture: `python tests/benchmarks/bench_frames.py [PICTURE.png …]`.

The path: decode a 2048×1024 PNG, resize to 512×256 by area, pack with a map into an RGBA PNG. Pillow's: `Image.open`,
`convert`, `resize` with BOX (the same average) or LANCZOS, `save` at its default level. CPU seconds of this process, so
that other programs disturb little; wall time is printed for one and two workers, from files and straight from a zip
archive. The pictures are drawn unless named.
"""

import io
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from assets.frames.archive import Source, read_frame, scan
from assets.frames.decode import read_picture
from assets.frames.encode import encode_png
from assets.frames.resize import resize
from assets.frames.sample import draw_scene, make_sample
from assets.frames.sources import Reader, resize_rows
from assets.saliency.rgba import pack, pack_many, unpack

SIZE = (512, 256)
FRAMES = 48


def timed(function: Callable[[], object], repeat: int = 7) -> float:
    """Return the least CPU milliseconds of several runs."""
    function()
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best * 1e3


def pillow_path(data: bytes, saliency_map: NDArray[np.uint8], filter_: Image.Resampling) -> bytes:
    """Decode, resize and pack with Pillow alone."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize(SIZE, filter_)
    image.putalpha(Image.fromarray(saliency_map))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def our_path(data: bytes, saliency_map: NDArray[np.uint8]) -> bytes:
    """Decode, resize and pack with Fovea."""
    return pack(resize(read_picture(data), SIZE), saliency_map)


def main(files: list[str]) -> None:
    """Print milliseconds and ratios."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        if not files:
            files = [str(path) for path in make_sample(Path(folder), counts={"train": 4})]
        datas = [Path(file).read_bytes() for file in files]
        blob = np.zeros((SIZE[1], SIZE[0]), np.float32)
        blob[128, 256] = blob[90, 100] = 1
        density = cv2.GaussianBlur(blob, (0, 0), 30)
        saliency_map = np.round(density * (255 / density.max())).astype(np.uint8)
        data = datas[0]
        picture = read_picture(data)
        frame = resize(picture, SIZE)
        packed = pack(frame, saliency_map)

        rows = {
            "decode, ours": timed(lambda: read_picture(data)),
            "decode, libspng": timed(lambda: imagecodecs.spng_decode(data)),
            "decode, OpenCV": timed(lambda: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)),
            "decode, Pillow": timed(lambda: np.asarray(Image.open(io.BytesIO(data)))),
            "resize, ours": timed(lambda: resize(picture, SIZE)),
            "resize, Pillow BOX": timed(lambda: Image.fromarray(picture).resize(SIZE, Image.Resampling.BOX)),
            "resize, Pillow LANCZOS": timed(lambda: Image.fromarray(picture).resize(SIZE, Image.Resampling.LANCZOS)),
            "pack, ours": timed(lambda: pack(frame, saliency_map)),
            "pack, Pillow default": timed(lambda: Image.fromarray(np.dstack((frame, saliency_map))).save(io.BytesIO(), "PNG"), 3),
            "unpack, ours": timed(lambda: unpack(packed)),
            "whole path, ours": timed(lambda: our_path(data, saliency_map)),
            "whole path, Pillow BOX": timed(lambda: pillow_path(data, saliency_map, Image.Resampling.BOX), 3),
            "whole path, Pillow LANCZOS": timed(lambda: pillow_path(data, saliency_map, Image.Resampling.LANCZOS), 3),
            "draw a sample picture": timed(lambda: draw_scene(0, "train", 1), 2),
            "write it as PNG": timed(lambda: encode_png(picture), 3),
        }  # fmt: skip
        print(
            f"{len(datas)} pictures, {len(data) / 1e6:.2f} MB the first; load {os.getloadavg()[0]:.1f}; CPU ms, one core"
        )
        for name, value in rows.items():
            print(f"  {name:28s} {value:8.1f}")
        ours = rows["whole path, ours"]
        sizes = len(packed), len(pillow_path(data, saliency_map, Image.Resampling.BOX))
        print(f"  Pillow BOX / ours     {rows['whole path, Pillow BOX'] / ours:5.2f} ×")
        print(f"  Pillow LANCZOS / ours {rows['whole path, Pillow LANCZOS'] / ours:5.2f} ×")
        print(f"  RGBA bytes: ours {sizes[0]}, Pillow {sizes[1]} ({sizes[0] / sizes[1] - 1:+.1%})")

        print(f"  ours / decode, libspng {ours / rows['decode, libspng']:5.2f} × (CPU, saliency excluded)")
        readers: dict[str, Reader] = {"files": lambda row: Path(row["path"]).read_bytes()}
        for method in ("stored", "deflated"):
            source = Source("archive", Path(folder) / f"{method}.zip")
            kind = zipfile.ZIP_STORED if method == "stored" else zipfile.ZIP_DEFLATED
            with zipfile.ZipFile(source.path, "w", kind) as archive:
                for k, one in enumerate(datas):
                    archive.writestr(f"leftImg8bit/test/bonn/bonn_{k:06d}_000019_leftImg8bit.png", one)
            refs = scan(source).frames
            readers[f"archive, {method}"] = lambda row, source=source, refs=refs: read_frame(  # type: ignore[misc]
                source, refs[row["number"]]
            )
        rows_of = [{"path": files[k % len(files)], "number": k % len(files)} for k in range(FRAMES)]
        for name, read in readers.items():
            rates = {}
            for workers in (1, 2):
                start, cpu = time.perf_counter(), time.process_time()
                resized = enumerate(resize_rows(rows_of, read, SIZE, workers=workers))
                frames = [(str(k), frame, saliency_map) for k, frame in resized]
                list(pack_many(frames, workers=workers))  # type: ignore[arg-type]
                wall, cpu = time.perf_counter() - start, time.process_time() - cpu
                rates[workers] = FRAMES / wall
                print(
                    f"  {name}, {workers} worker(s): {FRAMES / wall:5.1f} frames/s, {cpu / FRAMES * 1e3:.1f} ms of CPU a frame"
                )
            print(f"  {name}: two workers / one {rates[2] / rates[1]:.2f} ×")


if __name__ == "__main__":
    main(sys.argv[1:])
