"""Closed form: the highest request rate of a layout under an SLO, for arrays of layouts, batches and draws at once.

In a steady state ``n`` sequences decode on each virtual engine and requests come and go at a rate ``r``. A request
needs ``m`` steps that hold a piece of its prefill and ``d = (osl - 1) / accepted`` decode steps, which it shares with
the other ``n - 1``. Of all steps of a rank a share ``f = m n / d`` holds prefill. Where ``R`` data-parallel ranks step
together, a step waits for any of them that prefills, ``F = 1 - (1 - f)^R``; but the experts of all ranks share the
tokens of the few that do. With ``a`` what a piece adds on its own rank and ``b`` what it would add to the experts if all
ranks prefilled (``a + b = t_mixed - t_decode``):

    r = (n / d) / (t_decode + F a + f b)         while f < 1,  else 1 / (m t_mixed)

A request's time per output token is the mean of its own ``d`` steps, so short outputs spread most:
``sd^2 = (F (1 - F) a^2 + f (1 - f) b^2 / R + 2 f (1 - F) a b) m / d``, and never more than a step with prefill. The wait for
the first token is the prefill's own steps, half a step, and a queue for prefill behind prompts of unequal length,
rho / (1 - rho) / 2 times the mean prompt that a prefill token belongs to (M/G/1, Pollaczek and Khinchine).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offramp.cost import Pool, Setting, Shard, Steps, memory_table, split_time, step_time
from offramp.search.mix import Mix

F8 = npt.NDArray[np.float64]

BATCHES = np.array([1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024], dtype=np.float64)

# Percentiles over means, for ranking only; the simulation measures them. Assumed: waits for the first token are near
# exponential; a request's time per output token is near normal around the mean of its steps.
TTFT_WAIT = {"mean": 1.0, "p50": 0.7, "p90": 2.3, "p95": 3.0, "p99": 4.6}
NORMAL = {"mean": 0.0, "p50": 0.0, "p90": 1.28, "p95": 1.64, "p99": 2.33}
Slo = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Layouts x batches, flattened. Arrays ``[n]``; times ``[draws, n]``.

    Attributes:
        pool_index: position of the layout in ``pools``.
        batch: sequences per virtual engine.
        engines: virtual engines of one replica.
        devices: torch devices of one replica.
        fits: whether weights, the batch's cache and the longest request fit.
        rate: requests per second of one replica.
        tpot_s: mean; tpot_sd_s: spread over requests.
        ttft_base_s, ttft_wait_s: the fixed part and the queueing part of the first token's time.
        decode_s, mixed_s: a pure decode step, and one that holds a piece of prefill.
        output_steps: mean output tokens after the first.
    """

    pool_index: npt.NDArray[np.int64]
    batch: F8
    engines: F8
    devices: F8
    fits: npt.NDArray[np.bool_]
    rate: F8
    tpot_s: F8
    tpot_sd_s: F8
    ttft_base_s: F8
    ttft_wait_s: F8
    decode_s: F8
    mixed_s: F8
    output_steps: float

    def tpot_at(self, stat: str) -> F8:
        """Time per output token at a percentile. [draws, n]"""
        return np.minimum(self.tpot_s + NORMAL[stat] * self.tpot_sd_s, np.maximum(self.mixed_s, self.tpot_s))

    def strain(self, slo: Slo) -> F8:
        """The largest latency over its limit, by rule of thumb for percentiles; infinite where it does not fit. [draws, n]"""
        worst = np.where(np.broadcast_to(self.fits, self.rate.shape), 0.0, np.inf)
        for key, limit in slo.items():
            metric, _, stat = key.partition("_")
            if metric == "ttft":
                value = self.ttft_base_s + TTFT_WAIT[stat] * self.ttft_wait_s
            elif metric == "tpot":
                value = self.tpot_at(stat)
            elif metric == "itl":
                value = self.mixed_s if stat in ("p95", "p99") else self.tpot_s
            else:
                value = self.ttft_base_s + TTFT_WAIT[stat] * self.ttft_wait_s + self.tpot_s * self.output_steps
            worst = np.maximum(worst, value / limit)
        return worst

    def meets(self, slo: Slo) -> npt.NDArray[np.bool_]:
        """Whether each point keeps the limits. [draws, n]"""
        return self.strain(slo) <= 1.0

    def best_rates(self, slo: Slo, pools: int) -> F8:
        """Highest rate of each layout under the SLO; 0 where none is possible. [draws, pools]"""
        usable = np.where(self.meets(slo), self.rate, 0.0)
        order = np.argsort(self.pool_index, kind="stable")
        starts = np.searchsorted(self.pool_index[order], np.arange(pools))
        best: F8 = np.maximum.reduceat(usable[:, order], starts, axis=1)
        return best


STEEPEST = 4.0
"""Where no batch keeps the limits, a rate within them is guessed from the least strained one: it falls as this power."""


def read_off(grid: Grid, slo: Slo, pools: int) -> tuple[F8, F8]:
    """Highest rate of each layout under the SLO, read off between batches, and its least strain. [draws, pools] each

    Where no batch keeps the limits the rate is a guess from the least strained one: the strain says so. The rate is 0, and
    the strain infinite, where nothing fits.
    """
    shape = (grid.rate.shape[0], pools, -1)
    return read_between(grid.strain(slo).reshape(shape), grid.rate.reshape(shape))


def read_between(strain: F8, rate: F8) -> tuple[F8, F8]:
    """Highest rate whose strain is at most 1, read off between batches, and the least strain. [draws, pools] each

    Args:
        strain: the largest latency over its limit; it grows with the batch. [draws, pools, batches]
        rate: requests per second. [draws, pools, batches]
    """
    least = strain.min(axis=2)
    at = np.where(strain <= 1.0, rate, -1.0).argmax(axis=2)
    at = np.where(least <= 1.0, at, strain.argmin(axis=2))
    beyond = np.minimum(at + 1, rate.shape[2] - 1)

    def of(values: F8, where: npt.NDArray[np.int64]) -> F8:
        return np.take_along_axis(values, where[..., None], axis=2)[..., 0]

    low, high = of(strain, at), of(strain, beyond)
    inside = (least <= 1.0) & (high > 1.0) & np.isfinite(high) & (low > 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(inside, -np.log(low) / (np.log(high) - np.log(low)), 0.0)
        more = np.maximum(of(rate, beyond) / of(rate, at), 1.0)
        rates = of(rate, at) * more**share * np.where(least > 1.0, least**-STEEPEST, 1.0)
    return np.where(np.isfinite(least), rates, 0.0), least


def _columns(pools: Sequence[Pool], batches: F8) -> dict[str, F8]:
    each = len(batches)
    repeated = {
        name: np.repeat(np.array([float(getattr(pool, name)) for pool in pools]), each)
        for name in ("tp", "pp", "dp", "ep", "max_batch_tokens")
    }
    return {**repeated, "batch": np.tile(batches, len(pools))}


def evaluate(
    setting: Setting, pools: Sequence[Pool], mix: Mix, *, decode_tokens: float = 1.0, accept_tokens: float = 1.0,
    batches: F8 = BATCHES,
) -> Grid:  # fmt: skip
    """Rates and latencies of every (layout, batch) pair.

    Args:
        setting: model, device, precision, parameters; the pools share them.
        pools: layouts of that setting.
        mix: lengths.
        decode_tokens, accept_tokens: speculation: scheduled and gained tokens per sequence and step.
        batches: sequences per virtual engine to try.
    """
    col = _columns(pools, batches)
    shard = Shard(tp=col["tp"], pp=col["pp"], dp=col["dp"], ep=col["ep"])
    n, budget = col["batch"], col["max_batch_tokens"]
    q = decode_tokens
    room = np.maximum(budget - n * q, 64.0)
    piece = np.minimum(mix.isl_sized, room)
    zero = np.zeros_like(n)
    mixed = Steps(
        tokens=n * q + piece, decode_seqs=n, decode_context=n * mix.context,
        prefill_pairs=mix.pairs * piece / mix.isl, chunks=zero + 1.0, decode_tokens=q,
    )  # fmt: skip
    ranks = np.where((col["dp"] > 1) & (col["ep"] > 1), col["dp"], 1.0)
    together = bool((ranks > 1).any())
    t_decode, less = _decode(setting, pools, batches, mix, q=q, together=together)
    if together:
        t_mixed, more = split_time(setting, shard, mixed)
    else:
        t_mixed = step_time(setting, shard, mixed).total
        more = less
    t_mixed = np.maximum(t_mixed, t_decode)
    both = np.where(ranks > 1, np.clip(more - less, 0.0, t_mixed - t_decode), 0.0)
    own = t_mixed - t_decode - both
    per_request = mix.isl / piece
    decodes = max(mix.osl - 1.0, 1e-6) / accept_tokens
    share = per_request * n / decodes
    part = np.minimum(share, 1.0)
    slow = 1.0 - (1.0 - part) ** ranks
    step = t_decode + slow * own + part * both
    with_prefill = t_decode + own + both * (1.0 + (ranks - 1.0) * part) / ranks
    rate = np.where(share < 1.0, n / decodes / step, 1.0 / (per_request * t_mixed))
    step = np.where(share < 1.0, step, t_mixed)
    few = max(mix.osl_p25 - 1.0, 1.0) / accept_tokens
    variance = slow * (1.0 - slow) * own**2 + part * (1.0 - part) * both**2 / ranks
    variance += 2.0 * part * (1.0 - slow) * own * both
    spread = np.sqrt(variance * np.maximum(per_request, 1.0) / few)
    engines = col["dp"] * col["pp"]
    own_prefill = per_request * with_prefill
    busy = np.minimum(rate * own_prefill, 0.98)
    first = setting.parameters.first_token_s + setting.parameters.prompt_token_s * mix.isl
    long = min(max(mix.isl_p90 / mix.isl, 1.0), 4.0)
    uneven = mix.isl_sized / mix.isl
    return Grid(
        pool_index=np.repeat(np.arange(len(pools)), len(batches)), batch=n, engines=engines,
        devices=col["tp"] * col["pp"] * col["dp"], fits=_fits(setting, shard, col, mix, mtp=q > 1),
        rate=rate * engines, tpot_s=step / accept_tokens, tpot_sd_s=spread / accept_tokens,
        ttft_base_s=first + 0.5 * t_decode + long * own_prefill, ttft_wait_s=uneven * own_prefill * busy / (1.0 - busy) / 2.0,
        decode_s=t_decode, mixed_s=with_prefill, output_steps=max(mix.osl - 1.0, 0.0),
    )  # fmt: skip


def _decode(
    setting: Setting, pools: Sequence[Pool], batches: F8, mix: Mix, *, q: float, together: bool
) -> tuple[F8, F8]:
    """Decode-only steps of every (layout, batch) pair, and what ranks share of them; [draws, n] each.

    The token budget does not matter here, so layouts that differ in it alone are priced once.
    """
    degrees = [(pool.tp, pool.pp, pool.dp, pool.ep) for pool in pools]
    unlike = list(dict.fromkeys(degrees))
    at = {key: i for i, key in enumerate(unlike)}
    each = len(batches)
    tp, pp, dp, ep = (np.repeat(np.array(column, dtype=np.float64), each) for column in zip(*unlike, strict=True))
    n = np.tile(batches, len(unlike))
    zero = np.zeros_like(n)
    steps = Steps(
        tokens=n * q, decode_seqs=n, decode_context=n * mix.context, prefill_pairs=zero, chunks=zero, decode_tokens=q
    )
    shard = Shard(tp=tp, pp=pp, dp=dp, ep=ep)
    if together:
        whole, shared = split_time(setting, shard, steps)
    else:
        whole = step_time(setting, shard, steps).total
        shared = np.zeros_like(whole)
    which = np.repeat(np.array([at[key] for key in degrees]), each) * each + np.tile(np.arange(each), len(pools))
    return whole[:, which], shared[:, which]


def _fits(setting: Setting, shard: Shard, col: Mapping[str, F8], mix: Mix, *, mtp: bool) -> npt.NDArray[np.bool_]:
    table = memory_table(
        setting.model, setting.precision, shard, setting.device, context_tokens=np.full_like(col["batch"], mix.context),
        max_batch_tokens=col["max_batch_tokens"], mtp=mtp,
        reserve_share=np.full_like(col["batch"], float(np.median(setting.parameters.memory_reserve))),
    )  # fmt: skip
    tokens = table["kv_capacity_tokens"] / col["pp"]  # the stages' micro-batches share the cache
    return (tokens >= col["batch"] * mix.context) & (tokens >= mix.longest)


def lowest_of(grid: Grid, index: int, key: str) -> float:
    """Lowest value of a limited metric over the batches of one layout that fit, without queueing."""
    mine = (grid.pool_index == index) & grid.fits
    metric = key.partition("_")[0]
    if metric == "ttft":
        values = grid.ttft_base_s[0][mine]
    elif metric == "e2e":
        values = grid.ttft_base_s[0][mine] + grid.decode_s[0][mine] * grid.output_steps
    else:
        values = grid.decode_s[0][mine]
    return float(values.min()) if values.size else float("inf")
