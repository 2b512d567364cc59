"""Trace: requests as arrays, and what can be said of and done to them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from offramp.core.errors import InputError

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

_PERCENTILES = (50.0, 90.0, 95.0, 99.0)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Requests in order of arrival.

    Attributes:
        arrival_s: seconds since the first request, ascending. [n]
        isl_tokens, osl_tokens: input and output tokens, at least 1 each. [n]
        hash_offsets, hash_ids: blocks of each prompt in compressed rows: request i has
            ``hash_ids[hash_offsets[i]:hash_offsets[i + 1]]``; equal ids at the start of two prompts are a shared
            prefix. None where the source has none. [n + 1], [m]
        block_tokens: tokens of one block (0 without blocks).
        source: file name or preset.
        notes: what was dropped, reordered or assumed, with counts.
    """

    arrival_s: F8
    isl_tokens: I8
    osl_tokens: I8
    hash_offsets: I8 | None = None
    hash_ids: I8 | None = None
    block_tokens: int = 0
    source: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last."""
        return float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) else 0.0

    @property
    def mean_rate(self) -> float:
        """Requests per second; 0 where all arrive at once."""
        return (len(self) - 1) / self.duration_s if self.duration_s > 0 else 0.0

    def take(self, index: I8, *, note: str = "") -> Trace:
        """The requests at ascending positions, with time beginning at the first of them."""
        offsets, ids = self.hash_offsets, self.hash_ids
        if offsets is not None and ids is not None:
            lengths = np.diff(offsets)[index]
            new = np.concatenate(([0], np.cumsum(lengths)))
            # position of each kept id: start of its row, plus its place in the row
            rows = np.repeat(offsets[:-1][index] - new[:-1], lengths)
            ids, offsets = ids[rows + np.arange(new[-1])], new
        arrival = self.arrival_s[index]
        return replace(
            self, arrival_s=arrival - arrival[0] if len(arrival) else arrival, isl_tokens=self.isl_tokens[index],
            osl_tokens=self.osl_tokens[index], hash_offsets=offsets, hash_ids=ids,
            notes=(*self.notes, note) if note else self.notes,
        )  # fmt: skip

    def head(self, n: int) -> Trace:
        """The first ``n`` requests (all where there are fewer)."""
        if n >= len(self):
            return self
        return self.take(np.arange(max(n, 0)), note=f"first {n} of {len(self)} requests")

    def sample(self, n: int, seed: int) -> Trace:
        """``n`` requests chosen at random, in order; the same seed chooses the same ones."""
        if n >= len(self):
            return self
        index = np.sort(np.random.default_rng(seed).choice(len(self), size=n, replace=False))
        return self.take(index, note=f"{n} of {len(self)} requests, chosen at random")

    def scaled_to(self, rate: float) -> Trace:
        """The same requests in the same order, with time stretched to a mean rate in requests per second.

        Raises:
            InputError: the rate is not positive and finite, or all requests arrive at once.
        """
        if not np.isfinite(rate) or rate <= 0:
            raise InputError(f"a mean rate of {rate:g} requests/s", where="rate", mend="Give a positive rate.")
        if len(self) < 2:
            return self
        if self.duration_s <= 0:
            raise InputError(
                "all requests arrive at once, so time cannot be stretched", where=self.source,
                mend="Give arrival times, or use fixed concurrency.",
            )  # fmt: skip
        factor = self.mean_rate / rate
        return replace(self, arrival_s=self.arrival_s * factor, notes=(*self.notes, f"time x {factor:.4g}"))

    def at_peak(self, mean_rate: float, window_s: float = 60.0) -> Trace:
        """The requests at the rate of their own busiest window, when the demand's mean is ``mean_rate``."""
        return self.scaled_to(mean_rate * self.peak_to_mean(window_s))

    def peak_to_mean(self, window_s: float = 60.0) -> float:
        """Most arrivals in any of the consecutive windows over their mean; 1 where the trace is shorter than two."""
        if window_s <= 0:
            raise InputError(f"a window of {window_s:g} s", where="window_s", mend="Give a positive window.")
        windows = int(self.duration_s // window_s)
        if windows < 2:
            return 1.0
        whole = self.arrival_s[self.arrival_s - self.arrival_s[0] < windows * window_s] - self.arrival_s[0]
        counts = np.bincount((whole // window_s).astype(np.int64), minlength=windows)
        return float(counts.max() / counts.mean())

    def prefix_share(self) -> float:
        """Share of input tokens that an unlimited prefix cache would have, whole blocks in order of arrival."""
        if self.hash_ids is None or self.hash_offsets is None or not self.block_tokens or not len(self.hash_ids):
            return 0.0
        lengths = np.diff(self.hash_offsets)
        first = np.zeros(len(self.hash_ids), dtype=bool)
        first[np.unique(self.hash_ids, return_index=True)[1]] = True
        begins = self.hash_offsets[:-1]
        # blocks before the first new one of each request
        fresh = np.where(first, np.arange(len(first)), len(first))
        present = lengths > 0
        lead = np.minimum.reduceat(fresh, begins[present]) - begins[present]
        hits = np.minimum(lead, lengths[present])
        tokens = np.minimum(hits * self.block_tokens, self.isl_tokens[present])
        return float(tokens.sum() / self.isl_tokens.sum())

    def statistics(self) -> dict[str, float]:
        """Counts, rates and length statistics, by name with unit."""
        found: dict[str, float] = {
            "requests": float(len(self)), "duration_s": self.duration_s, "mean_rate_req_per_s": self.mean_rate,
            "peak_to_mean_60_s": self.peak_to_mean(60.0), "prefix_share": self.prefix_share(),
        }  # fmt: skip
        gaps = np.diff(self.arrival_s)
        found["gap_cv"] = float(gaps.std() / gaps.mean()) if len(gaps) and gaps.mean() > 0 else 0.0
        for name, values in (("isl", self.isl_tokens), ("osl", self.osl_tokens)):
            if not len(values):
                continue
            found[f"{name}_mean_tokens"] = float(values.mean())
            found[f"{name}_cv"] = float(values.std() / values.mean())
            for percent, value in zip(_PERCENTILES, np.percentile(values, _PERCENTILES), strict=True):
                found[f"{name}_p{percent:g}_tokens"] = float(value)
        return found
