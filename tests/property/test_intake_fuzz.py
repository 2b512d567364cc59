"""Broken files of other tools end in a named error or an answer, never in a traceback."""

from __future__ import annotations

import contextlib
import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp import intake
from offramp.core.errors import OfframpError
from offramp.intake.prometheus import parse_dump

NODE = {
    "kind": "Node",
    "metadata": {"name": "a", "labels": {"nvidia.com/gpu.product": "NVIDIA-H20", "nvidia.com/gpu.memory": "97871"}},
    "spec": {"unschedulable": True},
    "status": {"capacity": {"nvidia.com/gpu": "8"}, "conditions": [{"type": "Ready", "status": "True"}]},
}
CONTAINER = {
    "image": "vllm/vllm-openai:v0.11.0",
    "command": ["sh", "-c", "vllm serve X --tp 2"],
    "env": [{"name": "A", "value": "b"}],
    "resources": {"limits": {"nvidia.com/gpu": "1"}},
}
DEPLOYMENT = {
    "kind": "Deployment",
    "metadata": {"name": "d"},
    "spec": {"replicas": 1, "template": {"spec": {"containers": [CONTAINER]}}},
}
GUIDE = {
    "metadata": {"guidellm_version": "1"},
    "args": {"backend_kwargs": {"model": "m"}},
    "benchmarks": [
        {
            "config": {"strategy": {"type_": "concurrent", "streams": 2}, "backend": {"model": "m"}},
            "scheduler_metrics": {"measure_start_time": 1.0},
            "metrics": {
                "request_totals": {"successful": 2},
                "inter_token_latency_ms": {"successful": {"mean": 1.0, "percentiles": {"p99": 2.0}}},
                "output_token_count": {"successful": {"total_sum": 5, "count": 1}},
            },
        }
    ],
}
AIPERF = {
    "request_throughput": {"avg": 1.0},
    "request_latency": {"avg": 5.0, "unit": "ms"},
    "inter_chunk_latency": {"count": 3, "unit": "ms", "avg": 1.0},
    "output_sequence_length": {"avg": 2.0, "sum": 4.0, "count": 1},
    "input_config": {
        "phases": [{"concurrency": 2}],
        "models": {"items": [{"name": "a/b"}]},
        "loadgen": {"concurrency": 1},
    },
}
PERF = {
    "load_summary": {"requested_rate": 1.0},
    "successes": {
        "count": 2,
        "latency": {"request_latency": {"mean": 1.0}, "inter_token_latency": {"mean": 1.0, "median": 1.0}},
        "throughput": {"requests_per_sec": 1.0},
        "prompt_len": {"mean": 3.0},
    },
}
VLLM = {
    "request_throughput": 1.0,
    "output_throughput": 2.0,
    "duration": 3.0,
    "completed": 4,
    "mean_ttft_ms": 5.0,
    "server_info": {"tp_size": 2},
}
API = {
    "status": "success",
    "data": {"result": [{"metric": {"__name__": "vllm:prompt_tokens_total"}, "values": [[1.0, "2"], [2.0, "3"]]}]},
}
COST = {
    "data": [
        {"n": {"name": "n", "gpuHours": 2.0, "gpuCost": 3.0, "properties": {"labels": {"gpu_type": "NVIDIA-H20"}}}}
    ]
}
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**20),
    st.floats(),
    st.text(max_size=6),
    st.just([]),
    st.just({}),
    st.just([None]),
    st.just({"a": 1}),
)


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


@st.composite
def broken(draw, document):
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from([p for p in places(made) if p] or [()]))
        if not path:
            return draw(JUNK)
        held = made
        for key in path[:-1]:
            held = held[key]
        held[path[-1]] = draw(JUNK)
    return made


def read_bench(path):
    return intake.to_rows(intake.bench_of(path))


READERS = [
    (NODE, intake.nodes_of),
    (DEPLOYMENT, intake.deployments_of),
    (GUIDE, read_bench),
    (AIPERF, read_bench),
    (PERF, read_bench),
    (VLLM, read_bench),
    (COST, intake.price_rows),
    (API, lambda path: intake.traffic_of(parse_dump(path.read_text(), "d"))),
]


@pytest.mark.parametrize(
    ("document", "reader"),
    READERS,
    ids=["node", "deployment", "guidellm", "aiperf", "inference-perf", "vllm", "opencost", "api"],
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_broken_file_is_an_error_or_an_answer(document, reader, data, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data.draw(broken(document))), encoding="utf-8")
    with contextlib.suppress(OfframpError):
        reader(path)
