"""Models and traffic that a study names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from offramp import arch
from offramp.app.study import Synthetic, Workload
from offramp.arch.record import Model
from offramp.core.result import FigureLog
from offramp.serve import Requests


def load_model(spec: str) -> Model:
    """The model of a preset id or a config.json."""
    return arch.load(spec)


def load_requests(work: Workload, *, seed: int) -> Requests:
    """Requests of a serving workload, from its trace or its generator."""
    if work.trace:
        return trace_requests(work.trace)
    return synthetic_requests(work.synthetic or Synthetic(), seed=seed)


def requests_key(requests: Requests) -> str:
    """A hash of everything in the requests."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (
        requests.arrival_s,
        requests.isl_tokens,
        requests.osl_tokens,
        requests.hash_ids,
        requests.hash_offsets,
    ):
        digest.update(b"-" if part is None else part.tobytes())
    digest.update(str(requests.hash_block_tokens).encode())
    return digest.hexdigest()
