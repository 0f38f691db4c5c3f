"""Damage for readers: small valid files, broken in every way that disks, editors and people have.

A reader passes if each input ends in success or in one of our errors, soon: ``survives``.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wentu.errors import WentuError

SECONDS = 20.0
"""For one input. A reader that takes longer hangs; small inputs take milliseconds."""
TELLING = [b"\0", b"\n", b"\r", b'"', b"'", b",", b"\t", b"{", b"[", b"\\", b"\\ud83d", b"#1"]
TELLING += [b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\x81", b"\xf0\x9f\x98", b"9" * 40, b"-1", b"="]
TELLING += [b"<", b"&", b"]]>", b"null", b"NaN", b"1e999", b"[" * 50, "，".encode(), b""]


def mutations(seed_bytes: bytes, count: int, seed: int) -> Iterator[bytes]:
    """``count`` broken copies of a valid file: flips, cuts, insertions, chunks moved and doubled.

    The same for the same seed.
    """
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(seed_bytes)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            _break(data, rng)
        yield bytes(data)


def _break(data: bytearray, rng: random.Random) -> None:
    """One change, in place."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((1, 2, 4, 16, 64)))
    match rng.randrange(7):
        case 0 if data:  # a bit
            data[start % len(data)] ^= 1 << rng.randrange(8)
        case 1 if data:  # a byte
            data[start % len(data)] = rng.randrange(256)
        case 2:  # the rest is gone
            del data[start:]
        case 3:  # a piece is gone
            del data[start:end]
        case 4:  # something that means something
            data[start:start] = rng.choice(TELLING)
        case 5:  # noise
            data[start:start] = rng.randbytes(rng.choice((1, 3, 20)))
        case _:  # a piece twice
            at = rng.randrange(len(data) + 1)
            data[at:at] = data[start:end]


def survives(read: Callable[[bytes], object], inputs: Iterator[bytes]) -> int:
    """Read every input; anything but success or one of our errors fails. How many succeeded."""
    read_well = 0
    for number, data in enumerate(inputs):
        try:
            with _in_time():
                read(data)
            read_well += 1
        except WentuError as error:
            if not str(error).strip():
                raise AssertionError(f"input {number} ended without a sentence: {data!r}") from None
        except Exception as error:
            raise AssertionError(f"input {number} ended in {error!r}: {data!r}") from error
    return read_well


@contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {SECONDS:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
