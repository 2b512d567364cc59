"""Seeds: one integer in the study, independent streams by name below it."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """A 64-bit seed for the stream that ``names`` identify; equal inputs give equal seeds on every machine.

    Use with ``numpy.random.default_rng(derive_seed(seed, "arrivals", workload_id))``.
    """
    text = "\x1f".join([str(int(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
