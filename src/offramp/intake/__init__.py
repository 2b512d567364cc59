"""What other tools know, read into plain records: clusters, metrics, benchmarks, prices, orders.

:func:`bench_of` reads a benchmark file of any known tool, :func:`nodes_of` and :func:`deployments_of` what
``kubectl get -o json`` printed, :func:`metrics_of` a Prometheus dump or server, :func:`price_rows` and
:func:`order_rows` lists of prices and orders. Nothing here guesses: what a file does not say stays empty, and what it
says twice in different ways is named.
"""

from __future__ import annotations

from offramp.intake.bench import Bench, as_closed, bench_of, is_bench, to_rows
from offramp.intake.kubectl import Deployment, NodeGroup, deployments_of, nodes_of
from offramp.intake.metrics import Traffic, traffic_of
from offramp.intake.prices import order_rows, price_rows
from offramp.intake.prometheus import Series, metrics_of, without_login
from offramp.intake.said import complete_row, said_of

__all__ = [
    "Bench", "Deployment", "NodeGroup", "Series", "Traffic", "as_closed", "bench_of", "complete_row", "deployments_of", "is_bench",
    "metrics_of", "nodes_of", "order_rows", "price_rows", "said_of", "to_rows", "traffic_of", "without_login",
]  # fmt: skip
