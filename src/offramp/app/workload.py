"""Models and traffic that a study names."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from offramp import arch, traffic
from offramp.app.study import Synthetic, Workload
from offramp.arch.record import Model
from offramp.serve import Requests
from offramp.traffic.synthetic import params_of, synthetic
from offramp.traffic.trace import Trace

SYNTHETIC_RATE: Final = 20.0
"""Requests per second at which traffic is made; streams of other rates are shares or copies of it."""


def load_model(spec: str) -> Model:
    """The model of a preset id or a config.json."""
    return arch.load(spec)


def load_trace(work: Workload, *, seed: int) -> Trace:
    """Traffic of a serving workload, from its trace or its generator."""
    if work.trace:
        return traffic.load(work.trace)
    return synthetic_trace(work.synthetic or Synthetic(), seed=seed)


def synthetic_trace(settings: Synthetic, *, seed: int, where: str = "synthetic") -> Trace:
    """Generated traffic: a preset, with what the study changes in it."""
    own = msgspec.structs.asdict(settings)
    overrides = {key: value for key, value in own.items() if key not in ("preset", "requests") and value is not None}
    params = params_of(settings.preset, overrides, where=where)
    return synthetic(params, SYNTHETIC_RATE, settings.requests, seed, where=where)


def requests_of(trace: Trace) -> Requests:
    """The trace as the simulator takes it."""
    return Requests(
        arrival_s=trace.arrival_s, isl_tokens=trace.isl_tokens, osl_tokens=trace.osl_tokens, hash_ids=trace.hash_ids,
        hash_offsets=trace.hash_offsets, hash_block_tokens=trace.block_tokens or 512,
    )  # fmt: skip


def load_requests(work: Workload, *, seed: int) -> Requests:
    """Requests of a serving workload."""
    return requests_of(load_trace(work, seed=seed))


def requests_key(requests: Requests) -> str:
    """A hash of everything in the requests."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (
        requests.arrival_s, requests.isl_tokens, requests.osl_tokens, requests.hash_ids, requests.hash_offsets
    ):  # fmt: skip
        digest.update(b"-" if part is None else part.tobytes())
    digest.update(str(requests.hash_block_tokens).encode())
    return digest.hexdigest()
