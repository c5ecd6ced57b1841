"""Run by test_fuzz.py in a process of its own: mutated files into a codec's decoder.

Prints a JSON line an attack: how many gave a picture, how many a BitstreamError, the memory before and after. Anything
else ends the process with another exit status.
"""

import json
import random
import resource
import sys
import zlib
from pathlib import Path

from models.codecs import catalogue
from models.codecs.bitstream import BitstreamError, pack, unpack


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A changed file; half of them with a right checksum, so that parser and coder are reached."""
    contents = unpack(data)
    if contents.total is not None and rng.random() < 0.7:
        # a progressive one with right checksums
        strings = [bytearray(s) for s in contents.strings]
        for _ in range(rng.choice((1, 1, 2, 5))):
            one = rng.choice(strings)
            place = rng.randrange(len(one) + 1)
            if rng.random() < 0.5:
                del one[place:]
            else:
                one[place : place + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
        total = rng.choice((len(strings[-1]), max(contents.total, len(strings[-1]))))
        return pack(contents._replace(strings=tuple(map(bytes, strings)), total=total))
    body = bytearray(data[:-4])
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        kind = rng.randrange(7)
        place = rng.randrange(13, len(body)) if rng.random() < 0.8 and len(body) > 13 else rng.randrange(len(body))
        if kind == 0:
            body[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            body[place] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            del body[place:]
        elif kind == 3:
            del body[place : place + rng.randrange(1, 9)]
        elif kind == 4:
            body[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 5:
            body[place:] = rng.choice((b"\0", b"\xff", b"\x80")) * rng.randrange(1, 400)
        else:
            other = rng.choice(others)
            body[place:] = other[rng.randrange(len(other)) :]
        if not body:
            body = bytearray(b"F")
    if rng.random() < 0.5:
        return bytes(body) + data[-4:]
    head = data[:13]
    if rng.random() < 0.9:  # past the checks of magic, version and model
        body[:13] = head
    return bytes(body) + zlib.crc32(bytes(body)).to_bytes(4, "little")


def main(attacks: list[tuple[str, int, int, list[str]]]) -> None:
    """attacks: a saved codec's folder, how many files, a seed, and whole .fov files of it."""
    for folder, count, seed, files in attacks:
        codec = catalogue.load_codec(folder)
        data = [Path(f).read_bytes() for f in files]
        for d in data:
            codec.decode(d)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rng = random.Random(seed)
        pictures = errors = 0
        for _ in range(count):
            try:
                picture = codec.decode(mutate(rng.choice(data), data, rng))
            except BitstreamError:
                errors += 1
            else:
                assert picture.dtype == "uint8" and picture.ndim == 3
                pictures += 1
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {"pictures": pictures, "errors": errors, "before_kb": before, "after_kb": after}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
