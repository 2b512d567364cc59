"""Runs inside the peer's own environment (bench/peers.py starts it): prices a grid of points with AIConfigurator.

Reads {"model", "system", "backend", "isl", "osl", "budget", "tps", "batches", "rounds"} from stdin; prints seconds and values.
Tables and models are loaded before the clock starts: what is timed is the pricing of points alone.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from statistics import median
from typing import Any


def main() -> None:
    asked = json.load(sys.stdin)
    logging.disable(logging.CRITICAL)
    began, spent = time.perf_counter(), time.process_time()
    from aiconfigurator.cli.api import cli_estimate
    from aiconfigurator.sdk.config import RuntimeConfig
    from aiconfigurator.sdk.inference_session import InferenceSession

    sessions: list[Any] = []
    given = InferenceSession.run_agg

    def run_agg(self: Any, runtime_config: Any, **more: Any) -> Any:
        sessions.append((self, more))
        return given(self, runtime_config, **more)

    InferenceSession.run_agg = run_agg
    for tp in asked["tps"]:
        cli_estimate(
            asked["model"], asked["system"], backend_name=asked["backend"], isl=asked["isl"], osl=asked["osl"],
            batch_size=1, ctx_tokens=asked["budget"], tp_size=tp,
        )  # fmt: skip
    InferenceSession.run_agg = given
    ready = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - spent}
    rounds: list[dict[str, float]] = []
    values: list[dict[str, float]] = []
    for number in range(asked["rounds"]):  # another prompt length each, because the peer keeps what it has priced
        values = []
        began, spent = time.perf_counter(), time.process_time()
        for tp, (session, more) in zip(asked["tps"], sessions, strict=True):
            for batch in asked["batches"]:
                config = RuntimeConfig(isl=asked["isl"] + 1 + number, osl=asked["osl"], batch_size=batch)
                summary = session.run_agg(config, **more)
                found = summary.get_result_dict()
                if found is None or summary.check_oom() or summary.check_kv_cache_oom():
                    continue
                values.append({"tp": tp, "batch": batch, "tpot_ms": found["tpot"], "ttft_ms": found["ttft"],
                               "tokens_per_s_per_chip": found["tokens/s/gpu"]})  # fmt: skip
        rounds.append({"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - spent})
    grid = {name: median(row[name] for row in rounds) for name in ("wall_s", "cpu_s")}
    print(json.dumps({"ready": ready, "grid": grid, "values": values}))


if __name__ == "__main__":
    main()
