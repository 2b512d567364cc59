"""One run on one engine, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from offramp.serve import deploy
from offramp.serve.deploy import Deployment
from offramp.serve.oracle import run_oracle
from offramp.serve.records import Outcome, PoolSpec, Requests, ServeConfig


def run_engine(pools: Sequence[PoolSpec], requests: Requests, config: ServeConfig) -> tuple[Deployment, Outcome]:
    """Runs requests that are all known to fit, on one engine in this process."""
    deployment = deploy.plan(pools, config)
    masks, _ = deploy.eligible_pools(deployment, requests)
    after = deploy.decode_pools(deployment, requests)
    blocks = deploy.prefix_blocks(deployment, requests, config)
    if config.engine == "oracle":
        return deployment, run_oracle(deployment, requests, config, blocks=blocks, masks=(masks, after))
    from offramp.serve.events import run_kernel

    return deployment, run_kernel(deployment, requests, config, blocks=blocks, masks=(masks, after))
