"""Speed of the download on loopback, and of frames straight from the archive against unpacking first.

.venv/bin/python tests/benchmarks/bench_cityscapes.py [--megabytes 1024] [--frames 100]
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from servers.made_cityscapes import write_archive  # noqa: E402

from assets.frames.archive import ARCHIVE_NAME, Source, read_frame, scan  # noqa: E402
from assets.frames.cityscapes import download  # noqa: E402


def measure(what: str, count_bytes: int, act: Callable[[], object]) -> None:
    wall, processor = time.perf_counter(), time.process_time()
    act()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{what:44} {count_bytes / wall / 1e6:8.0f} MB/s {wall:7.2f} s wall {processor:7.2f} s CPU")


def write_large(path: Path, megabytes: int) -> Path:
    block = os.urandom(1 << 20)
    with zipfile.ZipFile(path, "w") as archive, archive.open("blob", "w", force_zip64=True) as member:
        for _ in range(megabytes):
            member.write(block)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: the temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        package = write_large(folder / ARCHIVE_NAME, options.megabytes)
        server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/servers/cityscapes_site.py"), str(package)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            assert server.stdout is not None
            os.environ.update(re.findall(r"(CITYSCAPES_\w+)=(\S+)", server.stdout.readline()))
            size = package.stat().st_size
            for attempt in range(3):
                measure(f"download, md5 included, try {attempt + 1}", size, lambda: download(folder / "out"))
                shutil.rmtree(folder / "out")
        finally:
            server.kill()
            server.wait()
        package.unlink()

        frames = write_archive(
            folder / "frames.zip", counts={"train": {"aachen": options.frames}}, large=options.frames
        )
        source = Source("archive", frames)
        refs = scan(source).frames
        size = sum(ref.size_bytes for ref in refs)
        print(f"{len(refs)} frames of 2048×1024, {size / len(refs) / 1e6:.2f} MB each")

        def read_by_zipfile() -> None:
            with zipfile.ZipFile(frames) as archive:
                for ref in refs:
                    archive.read(ref.member)

        def read_all(source: Source) -> None:
            for ref in scan(source).frames:
                read_frame(source, ref)

        tree = Source("tree", folder / "tree")
        zipfile.ZipFile(frames).extractall(tree.path)
        for _ in range(2):
            measure("read_frame, straight from the archive", size, lambda: read_all(source))
            measure("zipfile.ZipFile.read", size, read_by_zipfile)
            measure("read_frame from the tree (cached)", size, lambda: read_all(tree))


if __name__ == "__main__":
    main()
