"""What one engine step takes on a chip: operator time, memory, collectives, energy, money. No clock, no queue.

The way through: :func:`build_setting` joins a model, a pool, the catalogue and a parameter file; :func:`step_time` prices
arrays of (layout, batch) pairs for all parameter draws at once; :func:`step_table` condenses one layout for the
serving simulator; :func:`blockers` says what stands in the way.
"""

from offramp.cost.calibration import Calibration, Stack, from_prior, load_calibration, load_prior, parameters_for
from offramp.cost.deploy import Blocker, blockers, build_setting, memory_for
from offramp.cost.energy import device_power_w, site_power_w
from offramp.cost.features import Features, StepTime, seconds
from offramp.cost.layout import Layout, Pool
from offramp.cost.memory import Memory, kv_bytes_per_sequence, memory_table, weights_bytes
from offramp.cost.money import CapitalTerms, cost_per_second, per_million_tokens, yearly_cost
from offramp.cost.operators import Shard, Steps, Traffic
from offramp.cost.parameters import PARAMETER_NAMES, Parameters
from offramp.cost.step import Setting, split_time, step_features, step_time
from offramp.cost.table import StepTable
from offramp.cost.tabulate import shard_of, step_table

__all__ = [
    "PARAMETER_NAMES",
    "Blocker",
    "Calibration",
    "CapitalTerms",
    "Features",
    "Layout",
    "Memory",
    "Parameters",
    "Pool",
    "Setting",
    "Shard",
    "Stack",
    "StepTable",
    "StepTime",
    "Steps",
    "Traffic",
    "blockers",
    "build_setting",
    "cost_per_second",
    "device_power_w",
    "from_prior",
    "kv_bytes_per_sequence",
    "load_calibration",
    "load_prior",
    "memory_for",
    "memory_table",
    "parameters_for",
    "per_million_tokens",
    "seconds",
    "shard_of",
    "site_power_w",
    "split_time",
    "step_features",
    "step_table",
    "step_time",
    "weights_bytes",
    "yearly_cost",
]  # fmt: skip
