"""Adaptive binary range coding in integers: the same bytes on every machine.

A state is [probability of 0 out of 2^16, number of uses]; it moves by 1/(n + 2) at its n-th use, at last by 1/32.
"""

import math

_TOP = 1 << 24
_BITS = 16


def adapt(state: list[int], bit: int) -> None:
    """Move a state towards a bit that was seen."""
    p, n = state
    p += (0 if bit else 65536) // (n + 2) - p // (n + 2)
    state[0] = min(max(p, 512), 65024)
    if n < 30:
        state[1] = n + 1


class RangeEncoder:
    """Range encoder with carry (as in LZMA). bits: what it took until now, ideally: the sum of −log2 p."""

    def __init__(self) -> None:
        self.low, self.range, self.cache, self.pending, self.out = 0, 0xFFFFFFFF, 0, 1, bytearray()
        self.bits = 0.0

    def bit(self, state: list[int], bit: int) -> int:
        """Code one bit, move its probability, return the bit."""
        p = state[0] / 65536
        self.bits -= math.log2(1 - p if bit else p)
        bound = (self.range >> _BITS) * state[0]
        if bit:
            self.low += bound
            self.range -= bound
        else:
            self.range = bound
        while self.range < _TOP:
            self.range = self.range << 8 & 0xFFFFFFFF
            self._shift()
        adapt(state, bit)
        return bit

    def _shift(self) -> None:
        if self.low < 0xFF000000 or self.low > 0xFFFFFFFF:
            carry = self.low >> 32
            self.out.append(self.cache + carry & 0xFF)
            self.out.extend(bytes([0xFF + carry & 0xFF]) * (self.pending - 1))
            self.pending = 0
            self.cache = self.low >> 24 & 0xFF
        self.pending += 1
        self.low = self.low << 8 & 0xFFFFFFFF

    def finish(self) -> bytes:
        """The bytes, without zeros at the end."""
        # the value of the interval with the most trailing zeros: the decoder reads zeros past the end
        for k in range(31, -1, -1):
            value = -(-self.low >> k) << k
            if value < self.low + self.range:
                self.low = value
                break
        for _ in range(5):
            self._shift()
        return bytes(self.out[1:]).rstrip(b"\0")


class RangeDecoder:
    """What `RangeEncoder` wrote, with the same states in the same order; past the end it reads zeros."""

    def __init__(self, data: bytes):
        self.data, self.position, self.range, self.code = data, 4, 0xFFFFFFFF, 0
        self.code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def bit(self, state: list[int], _: int) -> int:
        """The next bit; moves its probability as the encoder did."""
        bound = (self.range >> _BITS) * state[0]
        if self.code < bound:
            self.range, bit = bound, 0
        else:
            self.code -= bound
            self.range -= bound
            bit = 1
        while self.range < _TOP:
            self.range = self.range << 8 & 0xFFFFFFFF
            byte = self.data[self.position] if self.position < len(self.data) else 0
            self.code = (self.code << 8 | byte) & 0xFFFFFFFF
            self.position += 1
        adapt(state, bit)
        return bit
