"""One lane of the per-step simulation: its scheduler, KV blocks and prefix cache, in plain Python.

What one lane's scheduler does each step, as vLLM V1 does it: running decodes first, each with its next tokens; KV
blocks for them, and where there are too few the latest admitted sequence is dropped and queued again at the front,
to be recomputed with the tokens it had; then the one unfinished prefill; then, if nothing was dropped, the queue in
order of arrival, for as long as token budget, sequence limit and KV blocks last. The last admission may be cut to the
budget and goes on next step. Pools that do not mix steps prefill whenever they can, and decode otherwise.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from offramp.serve.deploy import GAIN_UNIT, PoolPlan
from offramp.serve.records import ServeConfig


class Seq:
    """A request inside a pool."""

    __slots__ = ("blocks", "done", "emit_s", "gen", "hashes", "index", "isl", "number", "osl", "plen", "refs")

    def __init__(self, index: int, isl: int, osl: int, hashes: list[int]) -> None:
        self.index = index
        self.isl = isl
        self.osl = osl
        self.hashes = hashes
        self.gen = 0  # tokens that the user has
        self.plen = isl  # tokens to prefill; 0 when the KV came by transfer
        self.done = 0  # of those, computed or found
        self.refs = 0  # leading hash blocks held by reference
        self.blocks = 0  # private KV blocks
        self.number = 0  # order of admission
        self.emit_s = 0.0  # time of the last token


class Lane:
    """One scheduler with its KV blocks and prefix cache."""

    def __init__(self, pool: PoolPlan, config: ServeConfig, hash_tokens: int) -> None:
        self.pool = pool
        self.guarded = config.preemption == "none"
        self.hash_tokens = hash_tokens
        self.hash_blocks = hash_tokens // pool.block_tokens
        self.waiting: deque[Seq] = deque()
        self.decoding: list[Seq] = []
        self.partial: Seq | None = None
        self.chunks: list[tuple[Seq, int]] = []
        self.decodes_now = False
        self.free = pool.capacity_blocks
        self.held = 0
        self.refs: dict[int, int] = {}
        self.unused: OrderedDict[int, None] = OrderedDict()  # cached, nobody's, oldest first
        self.decode_steps = 0
        self.admissions = 0
        self.load_requests = 0
        self.load_tokens = 0
        self.preemptions = 0
        self.hit_tokens = 0
        self.lookup_tokens = 0

    # -- KV blocks

    def available(self) -> int:
        """Blocks that can be had: free ones, and cached ones that nobody uses."""
        return self.free + len(self.unused) * self.hash_blocks

    def take(self, blocks: int) -> None:
        """Takes blocks, dropping the longest unused cached ones where free blocks run out."""
        self.free -= blocks
        self.held += blocks
        while self.free < 0:
            block, _ = self.unused.popitem(last=False)
            del self.refs[block]
            self.free += self.hash_blocks

    def match(self, seq: Seq) -> int:
        """Leading hash blocks of its prompt that are cached; its last token is always computed."""
        most = min(len(seq.hashes), (seq.plen - 1) // self.hash_tokens)
        for i in range(most):
            if seq.hashes[i] not in self.refs:
                return i
        return most

    def refer(self, seq: Seq, block: int) -> None:
        """Holds a cached block by reference."""
        if self.refs[block] == 0:
            del self.unused[block]
            self.held += self.hash_blocks
        self.refs[block] += 1
        seq.refs += 1

    def publish(self, seq: Seq) -> None:
        """Makes the whole blocks that its prefill has covered findable; a block someone else published is shared."""
        whole = min(len(seq.hashes), seq.done // self.hash_tokens)
        while seq.refs < whole:
            block = seq.hashes[seq.refs]
            seq.blocks -= self.hash_blocks
            if block in self.refs:
                self.free += self.hash_blocks
                self.held -= self.hash_blocks
                self.refer(seq, block)
            else:
                self.refs[block] = 1
                seq.refs += 1

    def release(self, seq: Seq) -> None:
        """Gives back all its blocks; cached ones stay findable, the end of the prompt to be dropped first."""
        self.free += seq.blocks
        self.held -= seq.blocks
        for block in reversed(seq.hashes[: seq.refs]):
            self.refs[block] -= 1
            if self.refs[block] == 0:
                self.unused[block] = None
                self.held -= self.hash_blocks
        seq.refs = seq.blocks = 0

    # -- scheduling

    def running(self) -> int:
        """Sequences admitted and not finished."""
        return len(self.decoding) + (self.partial is not None) + len(self.chunks)

    def schedule(self) -> bool:
        """Fills the next step; False where there is nothing to do."""
        self.chunks = []
        self.decodes_now = False
        pool = self.pool
        if pool.spec.table.mixed_steps:
            dropped = self.grow()
            budget = pool.max_tokens - len(self.decoding) * pool.decode_tokens
            self.prefill(budget, admits=not dropped)
            self.decodes_now = bool(self.decoding)
        else:
            self.prefill(pool.max_tokens, admits=True)
            if not self.chunks:
                self.grow()
                self.decodes_now = bool(self.decoding)
        return self.decodes_now or bool(self.chunks)

    def grow(self) -> bool:
        """Gives every decoding sequence the blocks of its next tokens; drops the latest where there are too few."""
        if self.guarded:
            return False
        dropped = False
        while True:
            need = sum(self.missing(seq) for seq in self.decoding)
            if need <= self.available():
                break
            self.drop_latest()
            dropped = True
        for seq in self.decoding:
            blocks = self.missing(seq)
            self.take(blocks)
            seq.blocks += blocks
        return dropped

    def missing(self, seq: Seq) -> int:
        """Blocks that a decoding sequence lacks for its next step."""
        tokens = seq.isl + seq.gen + self.pool.decode_tokens - 1
        return max(0, self.pool.blocks(tokens) - seq.blocks - seq.refs * self.hash_blocks)

    def drop_latest(self) -> None:
        """Preempts the sequence admitted last; it will be recomputed with the tokens it has."""
        if self.partial is not None and all(self.partial.number > seq.number for seq in self.decoding):
            seq, self.partial = self.partial, None
        else:
            seq = max(self.decoding, key=lambda s: s.number)
            self.decoding.remove(seq)
        self.release(seq)
        seq.plen = seq.isl + seq.gen
        seq.done = 0
        self.preemptions += 1
        self.waiting.appendleft(seq)

    def prefill(self, budget: int, *, admits: bool) -> None:
        """Puts prefill chunks into the step: the unfinished one, then new ones in order of arrival."""
        if self.partial is not None and budget > 0:
            seq, self.partial = self.partial, None
            budget -= self.chunk(seq, budget)
        while admits and budget > 0 and self.waiting and self.running() < self.pool.max_seqs:
            seq = self.waiting[0]
            if seq.plen == 0 and budget < self.pool.decode_tokens:
                break
            if not self.admit(seq):
                break
            self.waiting.popleft()
            if seq.plen == 0:
                self.decoding.append(seq)
                budget -= self.pool.decode_tokens
            else:
                budget -= self.chunk(seq, budget)

    def admit(self, seq: Seq) -> bool:
        """Takes the blocks of its prompt (of all its tokens where nothing may be dropped later), if it can."""
        pool = self.pool
        matched = self.match(seq) if seq.plen else 0
        hits = seq.hashes[:matched]
        tokens = seq.plen if seq.plen else seq.isl + seq.gen + pool.decode_tokens - 1
        if self.guarded:
            tokens = pool.final_tokens(seq.isl, seq.osl)
        need = pool.blocks(tokens) - matched * self.hash_blocks
        waking = sum(self.refs[block] == 0 for block in hits) * self.hash_blocks
        running = self.running()
        spare = pool.watermark_blocks + pool.reserve_blocks * (running + 1) if running else 0
        if need > self.available() - waking - spare:
            return False
        for block in hits:
            self.refer(seq, block)
        self.take(need)
        seq.blocks += need
        seq.done = matched * self.hash_tokens
        self.admissions += 1
        seq.number = self.admissions
        if seq.hashes and seq.plen:
            self.hit_tokens += seq.done
            self.lookup_tokens += seq.plen
        return True

    def chunk(self, seq: Seq, budget: int) -> int:
        """Schedules the next chunk of a prefill; its tokens."""
        tokens = min(budget, seq.plen - seq.done)
        self.chunks.append((seq, tokens))
        seq.done += tokens
        if seq.hashes:
            self.publish(seq)
        return tokens

    # -- time

    def tokens(self) -> float:
        """Tokens of the scheduled step that go to experts shared with other ranks."""
        n = len(self.decoding) if self.decodes_now else 0
        if self.chunks:
            return n * self.pool.decode_tokens + sum(size for _, size in self.chunks)
        return float(self.pool.padded_tokens[n])

    def cost_s(self) -> float:
        """Duration of the scheduled step, in seconds."""
        pool, n, c = self.pool, len(self.decoding) if self.decodes_now else 0, len(self.chunks)
        tokens = n * pool.decode_tokens + sum(size for _, size in self.chunks)
        if c:
            pairs = sum(size * (seq.done - size) + size * (size + 1) / 2 for seq, size in self.chunks)
            total = pool.mixed_s[tokens] + pool.prefill_base_s * c + pool.pair_s * pairs
        else:
            total = pool.decode_s[n]
        total += pool.seq_s * (n + c)
        if n:
            # Accepted drafts accumulate per lane: whole tokens for lengths and blocks, their fraction for attention.
            fraction = (self.decode_steps * pool.gain % GAIN_UNIT) / GAIN_UNIT
            context = sum(seq.isl + seq.gen for seq in self.decoding) + n * fraction
            total += pool.attention_s[n] + pool.slope_s[n] * context
        return float(total)
