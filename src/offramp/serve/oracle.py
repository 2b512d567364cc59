"""The per-step simulation: every engine step, every sequence, in plain Python. Slow, and the reference.

Lanes are those of :mod:`offramp.serve.scheduler`; here are the events between them.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

import numpy as np

from offramp.serve.deploy import EPS_S, Blocks, Deployment
from offramp.serve.records import F8, I8, Outcome, Requests, ServeConfig
from offramp.serve.scheduler import Lane, Seq
from offramp.serve.sketch import Sketch

SUMS = ("busy_s", "batch_s", "kv_block_s")


class Oracle:
    """All lanes, and the events between them."""

    def __init__(self, deployment: Deployment, requests: Requests, config: ServeConfig, blocks: Blocks) -> None:
        self.deployment, self.requests, self.config, self.blocks = deployment, requests, config, blocks
        self.lanes = [Lane(deployment.pools[p], config, blocks.tokens) for p in deployment.lane_pool]
        self.groups: list[list[int]] = [[] for _ in deployment.group_pool]
        for lane, group in enumerate(deployment.lane_group):
            self.groups[group].append(lane)
        self.group_end: list[float] = [np.inf] * len(self.groups)
        self.group_start = [0.0] * len(self.groups)
        self.assigned = np.zeros(len(deployment.replica_pool))
        self.link_free = np.zeros(len(deployment.replica_pool))
        self.transfers: list[tuple[float, int, Seq, int]] = []
        n, pools = len(requests), len(deployment.pools)
        nan = np.full(n, np.nan)
        self.itl = Sketch()
        self.sums: dict[str, F8] = {}
        self.out = Outcome(
            start_s=nan.copy(), first_s=nan.copy(), done_s=nan.copy(), pool=np.zeros(n, np.int64),
            itl_counts=self.itl.counts, itl_sum_s=0.0, itl_max_s=0.0, itl_count=0, busy_s=np.zeros(pools),
            batch_s=np.zeros(pools), kv_block_s=np.zeros(pools), kv_peak_blocks=np.zeros(pools, np.int64),
            preemptions=np.zeros(pools, np.int64), hit_tokens=np.zeros(pools, np.int64),
            lookup_tokens=np.zeros(pools, np.int64), steps=np.zeros(pools, np.int64),
        )  # fmt: skip
        self.arrivals: deque[tuple[float, int]] = deque()
        self.next_request = 0
        self.now = 0.0

    # -- arrivals and routing

    def prime(self) -> None:
        """Queues the arrivals: all of them (open loop), or the first ones in flight (closed loop)."""
        n = len(self.requests)
        if self.config.mode == "open":
            times: Any = self.requests.arrival_s
            count = n
        else:
            count = min(n, self.config.concurrency)
            times = np.arange(count) * (self.config.ramp_s / max(1, self.config.concurrency))
        for i in range(count):
            self.send(float(times[i]), i)
        self.next_request = count

    def send(self, now: float, index: int) -> None:
        """A request leaves its user; the engine sees it after the host's delay."""
        self.out.start_s[index] = now
        self.arrivals.append((now + self.deployment.entry_delay_s, index))

    def arrive(self, index: int, mask: int) -> int:
        """Routes a request and queues it; the group to wake."""
        requests = self.requests
        hashes: list[int] = []
        if len(self.blocks.ids):
            hashes = self.blocks.ids[self.blocks.offsets[index] : self.blocks.offsets[index + 1]].tolist()
        seq = Seq(index, int(requests.isl_tokens[index]), int(requests.osl_tokens[index]), hashes)
        lane = self.route(seq, mask)
        self.out.pool[index] = self.deployment.lane_pool[lane]
        if self.lanes[lane].pool.spec.role == "decode":  # a decode pool alone: the KV is there already
            seq.gen, seq.plen, seq.emit_s = 1, 0, self.now
            self.out.first_s[index] = self.now
        return self.enqueue(seq, lane)

    def enqueue(self, seq: Seq, lane: int) -> int:
        """Puts a sequence at the end of a lane's queue; the group to wake."""
        target = self.lanes[lane]
        target.waiting.append(seq)
        target.load_requests += 1
        target.load_tokens += seq.isl + seq.osl
        return int(self.deployment.lane_group[lane])

    def route(self, seq: Seq, mask: int) -> int:
        """The lane for a sequence: a replica by the router's rule, then its lane with the fewest requests."""
        deployment = self.deployment
        allowed = [r for r, p in enumerate(deployment.replica_pool) if mask >> int(p) & 1]
        if self.config.router == "prefix-aware" and seq.plen:
            lane = self.route_by_prefix(seq, allowed)
            if lane >= 0:
                return lane
        best = min(allowed, key=lambda r: (self.burden(r), r))
        self.assigned[best] += 1
        lanes = range(deployment.replica_first_lane[best], deployment.replica_first_lane[best + 1])
        return min(lanes, key=lambda lane: (self.lanes[lane].load_requests, lane))

    def burden(self, replica: int) -> float:
        """What the router minimises."""
        deployment = self.deployment
        weight = deployment.pools[deployment.replica_pool[replica]].spec.weight
        if self.config.router == "round-robin":
            return (self.assigned[replica] + 1) / weight
        lanes = self.lanes[deployment.replica_first_lane[replica] : deployment.replica_first_lane[replica + 1]]
        if self.config.router == "least-tokens":
            return sum(lane.load_tokens for lane in lanes) / weight
        return sum(lane.load_requests for lane in lanes) / weight

    def route_by_prefix(self, seq: Seq, allowed: list[int]) -> int:
        """The lane with the longest cached prefix (fewest requests among equals), or -1 where load decides."""
        first = self.deployment.replica_first_lane
        lanes = [lane for r in allowed for lane in range(first[r], first[r + 1])]
        loads = [self.lanes[lane].load_requests for lane in lanes]
        config = self.config
        if max(loads) - min(loads) > config.balance_abs and max(loads) > config.balance_rel * min(loads):
            return -1
        matches = [self.lanes[lane].match(seq) for lane in lanes]
        best = max(matches)
        if best == 0 or best * self.blocks.tokens < config.match_share * seq.isl:
            return -1
        return min((load, lane) for lane, load, match in zip(lanes, loads, matches, strict=True) if match == best)[1]

    # -- steps

    def start(self, group: int, now: float) -> None:
        """Schedules and prices the next step of a group, if there is one."""
        lanes = [self.lanes[lane] for lane in self.groups[group]]
        before = [lane.preemptions for lane in lanes]
        busy = [lane.schedule() for lane in lanes]
        pool = int(self.deployment.group_pool[group])
        self.out.preemptions[pool] += sum(lane.preemptions - b for lane, b in zip(lanes, before, strict=True))
        if not any(busy):
            self.group_end[group] = np.inf
            return
        cost = max(lane.cost_s() for lane, b in zip(lanes, busy, strict=True) if b)
        shared = self.deployment.pools[pool].shared_s
        if len(shared):
            mean = sum(lane.tokens() for lane, b in zip(lanes, busy, strict=True) if b) / len(lanes)
            cost += shared[int(mean)] + (mean - int(mean)) * (shared[int(mean) + 1] - shared[int(mean)])
        self.group_start[group] = now
        self.group_end[group] = now + cost
        self.out.busy_s[pool] += cost
        self.out.steps[pool] += 1
        for lane in lanes:
            sequences = len(lane.chunks) + (len(lane.decoding) if lane.decodes_now else 0)
            self.out.batch_s[pool] += sequences * cost
            self.out.kv_block_s[pool] += lane.held * cost
            self.out.kv_peak_blocks[pool] = max(self.out.kv_peak_blocks[pool], lane.held)

    def end(self, group: int) -> None:
        """Ends a group's step: tokens are out, sequences finish, prefills turn into decodes."""
        now = self.group_end[group]
        self.group_end[group] = np.inf
        for index in self.groups[group]:
            lane = self.lanes[index]
            if lane.decodes_now:
                self.end_decodes(index, now)
            for seq, _ in lane.chunks:
                if seq.done < seq.plen:
                    lane.partial = seq
                else:
                    self.end_prefill(index, seq, now)
            lane.chunks = []
            lane.decodes_now = False

    def end_decodes(self, index: int, now: float) -> None:
        """Every decoding sequence gains its tokens."""
        lane = self.lanes[index]
        gain = lane.pool.gain
        gained = ((lane.decode_steps + 1) * gain >> 16) - (lane.decode_steps * gain >> 16)
        lane.decode_steps += 1
        self.itl.add(np.array([now - seq.emit_s for seq in lane.decoding]))
        finished = [seq for seq in lane.decoding if seq.gen + gained >= seq.osl]
        lane.decoding = [seq for seq in lane.decoding if seq.gen + gained < seq.osl]
        for seq in lane.decoding:
            seq.gen += gained
            seq.emit_s = now
        for seq in sorted(finished, key=lambda s: (s.osl - s.gen, s.index)):
            self.finish(index, seq, now)

    def end_prefill(self, index: int, seq: Seq, now: float) -> None:
        """A prefill is complete: one more token is out, and the sequence decodes, moves on or finishes."""
        lane = self.lanes[index]
        seq.gen += 1
        if seq.gen == 1 and (seq.osl == 1 or lane.pool.spec.role == "both"):
            self.out.first_s[seq.index] = now
        elif seq.gen > 1:
            self.itl.add(np.array([now - seq.emit_s]))
        seq.emit_s = now
        if seq.gen >= seq.osl:
            self.finish(index, seq, now)
        elif lane.pool.spec.role == "prefill":
            self.transfer(index, seq, now)
        else:
            lane.decoding.append(seq)

    def finish(self, index: int, seq: Seq, now: float) -> None:
        """A request is complete; in closed loop the next one starts."""
        self.leave(index, seq)
        self.out.done_s[seq.index] = now
        if self.config.mode == "closed" and self.next_request < len(self.requests):
            self.send(now, self.next_request)
            self.next_request += 1

    def leave(self, index: int, seq: Seq) -> None:
        """A sequence leaves a lane with all it held."""
        lane = self.lanes[index]
        lane.release(seq)
        lane.load_requests -= 1
        lane.load_tokens -= seq.isl + seq.osl

    def transfer(self, index: int, seq: Seq, now: float) -> None:
        """Sends a prefilled prompt's KV on its way; its blocks stay held until it has arrived."""
        pool, replica = self.lanes[index].pool, int(self.deployment.lane_replica[index])
        begin = max(now, self.link_free[replica]) if self.config.serial_link else now
        arrived = begin + pool.transfer_base_s + pool.transfer_s_per_token * seq.isl
        self.link_free[replica] = arrived
        heapq.heappush(self.transfers, (arrived, seq.index, seq, index))

    def receive(self, masks: I8) -> list[int]:
        """The first transfer arrives: the user has the first token, a decode lane the sequence. Groups to wake."""
        now, _, seq, source = heapq.heappop(self.transfers)
        self.leave(source, seq)
        self.out.first_s[seq.index] = now
        seq.emit_s = now
        seq.plen = 0
        seq.hashes = []
        lane = self.route(seq, int(masks[seq.index]))
        return [self.enqueue(seq, lane), int(self.deployment.lane_group[source])]

    # -- the loop

    def run(self, entry_masks: I8, decode_masks: I8) -> Outcome:
        """Runs until nothing happens any more."""
        self.prime()
        arrival = self.requests.arrival_s
        middle = float(arrival[0] + arrival[-1]) / 2 + self.deployment.entry_delay_s if len(arrival) else 0.0
        while True:
            next_arrival = self.arrivals[0][0] if self.arrivals else np.inf
            next_transfer = self.transfers[0][0] if self.transfers else np.inf
            now = min(next_arrival, next_transfer, min(self.group_end))
            if now == np.inf:
                break
            self.now = now
            horizon = now + EPS_S
            awake: dict[int, float] = {}
            while True:
                ending = [g for g, end in enumerate(self.group_end) if end <= horizon]
                if ending:
                    for group in ending:
                        awake[group] = self.group_end[group]
                        self.end(group)
                elif self.transfers and self.transfers[0][0] <= horizon:
                    for group in self.receive(decode_masks):
                        awake.setdefault(group, now)
                elif self.arrivals and self.arrivals[0][0] <= horizon:
                    at, index = self.arrivals.popleft()
                    self.sample_queue(at, middle, last=index == len(self.requests) - 1)
                    awake.setdefault(self.arrive(index, int(entry_masks[index])), now)
                else:
                    break
            for group, since in awake.items():
                if self.group_end[group] == np.inf:
                    self.start(group, since)
        return self.close()

    def sample_queue(self, now: float, middle: float, *, last: bool) -> None:
        """Takes the number of waiting requests into the trend of the second half."""
        if now < middle and not last:
            return
        waiting = sum(len(lane.waiting) for lane in self.lanes)
        t = now - middle
        self.out.trend += np.array([1.0, t, waiting, t * waiting, t * t])
        if last:
            self.out.queue_at_end = waiting
            if self.config.cooldown and self.config.mode == "open":
                self.sums = {name: getattr(self.out, name).copy() for name in SUMS}
                self.out.until_s = now

    def close(self) -> Outcome:
        """Collects the sums."""
        for index, lane in enumerate(self.lanes):
            pool = self.deployment.lane_pool[index]
            self.out.hit_tokens[pool] += lane.hit_tokens
            self.out.lookup_tokens[pool] += lane.lookup_tokens
            self.out.leaked_blocks += lane.held
            self.out.leaked_blocks += abs(lane.pool.capacity_blocks - lane.available())
        for name, values in self.sums.items():
            setattr(self.out, name, values)
        self.out.itl_sum_s, self.out.itl_max_s, self.out.itl_count = self.itl.total_s, self.itl.max_s, self.itl.count
        return self.out


def run_oracle(
    deployment: Deployment, requests: Requests, config: ServeConfig, *, blocks: Blocks, masks: tuple[I8, I8]
) -> Outcome:
    """Walks every step of the deployment serving these (accepted) requests.

    Args:
        deployment: from :func:`offramp.serve.deploy.plan`.
        requests: only those that fit.
        config: settings; ``engine`` and ``jobs`` are ignored.
        blocks: prefix blocks of the requests.
        masks: entry and decode pools that may take each request, as bits. [n], [n]
    """
    return Oracle(deployment, requests, config, blocks).run(*masks)
