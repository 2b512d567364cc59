"""Laws of the step model that no parameter may break."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp import arch, catalog
from offramp.train.cases import chip_device
from offramp.train.features import features
from offramp.train.layout import Layout, Task, grid_of, layout_at
from offramp.train.memory import memory
from offramp.train.parameters import Stack, draw, load_posterior
from offramp.train.step import step_time
from offramp.train.work import model_flop, model_work

MODELS = ("meta-llama/Meta-Llama-3.1-70B", "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-30B-A3B")
power = st.sampled_from((1, 2, 4, 8))


def seconds(device, model, layout: Layout, task: Task) -> float:
    stack = Stack(device.chip, device.family, "megatron-lm", dtype=task.dtype)
    return float(
        step_time(features(model_work(model), device, task, grid_of([layout])), draw(load_posterior(), stack)).total[0]
    )


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(MODELS), power, power, st.sampled_from((1, 2)), st.floats(1.05, 4.0))
def test_more_of_anything_is_never_slower(name: str, tp: int, pp: int, cp: int, more: float) -> None:
    model, device = arch.load(name), chip_device("nvidia/h800", catalog.load())
    layout = Layout(tp=tp, pp=pp, cp=cp, dp=8, ep=8 if "Llama" not in name else 1)
    task = Task(sequence_tokens=8192, batch_sequences=64)
    base = seconds(device, model, layout, task)
    faster = (
        replace(device, memory_bytes_per_s=device.memory_bytes_per_s * more),
        replace(device, peak_flop_per_s={k: v * more for k, v in device.peak_flop_per_s.items()}),
        replace(device, fabric=replace(device.fabric, device_bytes_per_s=device.fabric.device_bytes_per_s * more,
                                       link_bytes_per_s=device.fabric.link_bytes_per_s * more)),
        replace(device, fabric=replace(device.fabric, scaleout_bytes_per_s=device.fabric.scaleout_bytes_per_s * more)),
    )  # fmt: skip
    for better in faster:
        assert seconds(better, model, layout, task) <= base * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(MODELS), st.sampled_from((1, 2, 3)), st.sampled_from(("1f1b", "dualpipe", "zero-bubble")),
       st.floats(1.05, 4.0), st.sampled_from((1e-2, 0.1, 1.0)))  # fmt: skip
def test_work_that_hides_messages_hides_them_once(name: str, zero: int, schedule: str, more: float, net: float) -> None:
    """Less work beside messages must not uncover more than it saves, however slow the network."""
    model, device = arch.load(name), chip_device("nvidia/h100", catalog.load())
    device = replace(
        device, fabric=replace(device.fabric, scaleout_bytes_per_s=device.fabric.scaleout_bytes_per_s * net)
    )
    pp = 1 if schedule == "1f1b" else 4
    layout = Layout(tp=8, pp=pp, dp=64, ep=64 if "Llama" not in name else 1, zero=zero if pp == 1 else 1,
                    schedule=schedule)  # type: ignore[arg-type]  # fmt: skip
    task = Task(sequence_tokens=4096, batch_sequences=512)
    faster = replace(device, memory_bytes_per_s=device.memory_bytes_per_s * more)
    assert seconds(faster, model, layout, task) <= seconds(device, model, layout, task) * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(MODELS), power, power, st.integers(1, 4))
def test_never_faster_than_peak_and_parts_add_up(name: str, tp: int, pp: int, micro: int) -> None:
    model, device = arch.load(name), chip_device("huawei/ascend-910b", catalog.load())
    layout = Layout(tp=tp, pp=pp, dp=4, micro_batch=micro, ep=4 if "Llama" not in name else 1)
    task = Task(sequence_tokens=4096, batch_sequences=48 * micro)
    work = model_work(model)
    stack = Stack(device.chip, device.family, "mindspeed")
    found = step_time(features(work, device, task, grid_of([layout])), draw(load_posterior(), stack))
    flop = model_flop(work, 4096, causal=True) * task.step_tokens
    peak = float(np.mean(device.peak_flop_per_s["bf16"]))
    assert float(found.total[0]) > flop / peak / layout.devices
    assert sum(float(v[0]) for v in found.shares().values()) == pytest.approx(1.0, rel=2e-3)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(MODELS), power, power)
def test_recompute_saves_memory_and_costs_time(name: str, tp: int, pp: int) -> None:
    model, device = arch.load(name), chip_device("nvidia/h800", catalog.load())
    task = Task(sequence_tokens=8192, batch_sequences=64)
    layouts = [Layout(tp=tp, pp=pp, dp=8, recompute=kind) for kind in ("none", "selective", "full")]  # type: ignore[arg-type]
    kept = memory(model_work(model), device, task, grid_of(layouts)).activations
    times = [seconds(device, model, layout, task) for layout in layouts]
    assert kept[0] >= kept[1]
    assert times[0] <= times[1] <= times[2]


@settings(max_examples=40, deadline=None)
@given(
    power,
    power,
    power,
    st.sampled_from(("none", "selective", "full")),
    st.sampled_from(("1f1b", "zero-bubble", "dualpipe")),
)
def test_layouts_survive_the_trip_through_arrays(tp: int, pp: int, dp: int, kind: str, schedule: str) -> None:
    layout = Layout(tp=tp, pp=pp, dp=dp, recompute=kind, schedule=schedule, sequence_parallel=tp > 1)  # type: ignore[arg-type]
    assert layout_at(grid_of([layout]), 0) == layout


def test_flop_of_a_dense_model_is_six_per_weight() -> None:
    model = arch.load("meta-llama/Meta-Llama-3.1-405B")
    embedding = model.vocab * model.hidden
    per_token = model_flop(model_work(model), 8192, causal=True)
    attention = 126 * 3 * 2 * 128 * (128 + 128) * 8192 / 2
    assert per_token == pytest.approx(6 * (model.parameters_total - embedding) + attention, rel=1e-3)


def test_weights_of_all_ranks_are_the_models() -> None:
    model = arch.load("deepseek-ai/DeepSeek-V3")
    assert model_work(model).weights == pytest.approx(model.parameters_total, rel=1e-6)


def test_zero_2_trades_messages_for_memory() -> None:
    model, device = arch.load("Qwen/Qwen3-8B"), chip_device("nvidia/h800", catalog.load())
    task = Task(sequence_tokens=4096, batch_sequences=64)
    one, two, three = (
        grid_of([Layout(dp=8, zero=zero, sequence_parallel=False)]) for zero in (1, 2, 3)
    )  # fmt: skip
    work = model_work(model)
    need = [float(memory(work, device, task, grid).total[0]) for grid in (one, two, three)]
    assert need[0] > need[1] > need[2]
    sent = [
        float((f.gather * f.micro_batches + f.reduce)[0])
        for f in (features(work, device, task, grid) for grid in (one, two, three))
    ]
    assert sent[0] < sent[1] < sent[2]
