"""How much one client may ask in a while: a token bucket for each address, in fixed memory.

Unusual here: a bucket is a single number, the time at which it is full again (GCRA, the "virtual
scheduling" of ITU-T I.371, annex A), in a table of fixed size in memory that all workers share.
Where an address has its number is a keyed digest of it, so nobody can aim at the place of another.
There is no lock: a process that is killed cannot leave one behind. What two workers count in the
same instant may count once; 2**20 places make it rare that two clients share one.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import mmap
import os
import time

PLACES = 1 << 20
"""Eight bytes each; pages of it that nobody uses take no memory."""
BURST = 5.0
"""Seconds of the rate that may be asked at once."""


class Rate:
    """See the top of this file. Made before the workers are, it counts for all of them.

    Args:
        each_second: queries that one client may send.
    """

    def __init__(self, each_second: float) -> None:
        self._seconds = 1 / each_second
        self._key = os.urandom(16)
        self._full = memoryview(mmap.mmap(-1, 8 * PLACES)).cast("d")

    def wait(self, address: str, cost: float = 1.0) -> int:
        """Count what a client asks; 0, or the seconds after which it may (which is not counted)."""
        place, now = self._place(address), time.monotonic()
        full = max(self._full[place], now) + cost * self._seconds
        over = full - now - max(BURST, self._seconds)
        if over > 0:
            return math.ceil(over)
        self._full[place] = full
        return 0

    def _place(self, address: str) -> int:
        digest = hashlib.blake2b(one_client(address).encode(), key=self._key, digest_size=8)
        return int.from_bytes(digest.digest(), "big") % PLACES


def one_client(address: str) -> str:
    """What counts as one: an address, or the /64 that a household is given of IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped or ipaddress.ip_network((found, 64), strict=False).network_address)
    return str(found)
