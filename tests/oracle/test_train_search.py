"""The search finds what trying every layout one by one finds."""

from __future__ import annotations

import itertools

import pytest

from offramp import arch, catalog
from offramp.arch.record import Attention, LayerGroup, Mlp, Model
from offramp.core.errors import InfeasibleError
from offramp.train.cases import chip_device
from offramp.train.features import features
from offramp.train.layout import Layout, Task, grid_of, layout_problems
from offramp.train.memory import memory
from offramp.train.parameters import Stack, draw, load_posterior
from offramp.train.search import Limits, search
from offramp.train.step import step_time
from offramp.train.work import model_work

DEVICES = 16


def small(*, experts: int = 0) -> Model:
    attention = Attention(kind="gqa", heads=16, kv_heads=8, head_dim=64, v_head_dim=64)
    mlp = Mlp(kind="dense", intermediate=4096)
    if experts:
        mlp = Mlp(kind="moe", experts=experts, experts_per_token=2, expert_intermediate=1024)
    return Model(id="small", architecture="x", model_type="x", hidden=1024, vocab=32000,
                 layers=(LayerGroup(count=8, attention=attention, mlp=mlp),))  # fmt: skip


@pytest.mark.parametrize("experts", [0, 8])
def test_search_equals_brute_force(experts: int) -> None:
    model = small(experts=experts)
    device = chip_device("nvidia/a100", catalog.load())
    task = Task(sequence_tokens=4096, batch_sequences=64)
    values = draw(load_posterior(), Stack("nvidia/a100", device.family, "megatron-lm"))
    limits = Limits(micro_batch=(1, 2, 4), vp=(1, 2))
    found = search(model, device, task, devices=DEVICES, values=values, limits=limits)
    work = model_work(model)
    best = (float("inf"), "")
    degrees = (1, 2, 4, 8, 16)
    for tp, pp, cp, ep, micro, vp, zero, kind in itertools.product(
        degrees[:4],
        degrees,
        (1, 2),
        degrees if experts else (1,),
        (1, 2, 4),
        (1, 2),
        (1, 2, 3),
        ("none", "selective", "full"),
    ):
        dp = DEVICES // (tp * pp * cp)
        layout = Layout(tp=tp, pp=pp, cp=cp, dp=dp, ep=ep, vp=vp, micro_batch=micro, zero=zero, recompute=kind,
                        sequence_parallel=tp > 1)  # type: ignore[arg-type]  # fmt: skip
        if dp < 1 or layout_problems(layout, model, task, DEVICES) or (zero > 1 and pp > 1) or (vp > 1 and pp == 1):
            continue
        if vp > 1 and (task.batch_sequences // dp // micro) % pp:
            continue
        grid = grid_of([layout])
        if float(memory(work, device, task, grid).over[0]) > 0:
            continue
        seconds = float(step_time(features(work, device, task, grid), values).total[0])
        best = min(best, (seconds, layout.words))
    assert found.seconds[0] == pytest.approx(best[0], rel=1e-9)


def test_what_does_not_fit_says_which_tensor_and_how_many_bytes() -> None:
    model = arch.load("deepseek-ai/DeepSeek-V3")
    device = chip_device("nvidia/h800", catalog.load())
    values = draw(load_posterior(), Stack("nvidia/h800", device.family, "hai-llm", dtype="fp8", shape="moe"))
    with pytest.raises(InfeasibleError, match=r"bytes over; the largest tensor is optimizer") as caught:
        search(model, device, Task(sequence_tokens=4096, batch_sequences=512, dtype="fp8"), devices=16, values=values)
    assert "nvidia/h800" in str(caught.value)


def test_what_does_not_divide_says_why() -> None:
    device = chip_device("nvidia/a100", catalog.load())
    values = draw(load_posterior(), Stack("nvidia/a100", device.family, "megatron-lm"))
    with pytest.raises(InfeasibleError, match="TP 7 does not divide 16 heads"):
        search(
            small(),
            device,
            Task(sequence_tokens=4096, batch_sequences=64),
            devices=16,
            values=values,
            limits=Limits(tp=(7,)),
        )


@pytest.mark.parametrize(("pp", "vp", "micros"), [(4, 2, 8), (8, 4, 36), (16, 8, 72), (4, 3, 5), (2, 2, 7)])
def test_interleaved_activations_are_those_of_the_schedule_played_out(pp: int, vp: int, micros: int) -> None:
    group = next(n for n in range(pp, micros + 1) if not 0 < micros % n < pp)
    order: list[int] = []  # the chunk of each pass of the first rank, group by group
    for first in range(0, micros, group):
        order += [chunk for chunk in range(vp) for _ in range(min(group, micros - first))]
    warm = min(2 * (pp - 1) + (vp - 1) * group, len(order))
    most = live = 0
    back = 0
    for at in range(len(order)):
        live += 1
        most = max(most, live)
        if at >= warm:  # one pass forward, one backward
            back += 1
            live -= 1
    assert back + live == len(order)
    task = Task(sequence_tokens=4096, batch_sequences=micros)
    device = chip_device("nvidia/a100", catalog.load())
    kept = [
        float(memory(model_work(small()), device, task, grid_of([Layout(pp=pp, vp=chunks)])).activations[0])
        for chunks in (vp, 1)
    ]
    assert kept[0] / kept[1] == pytest.approx(most / vp / pp)  # plain 1F1B holds PP micro-batches


def test_interleaving_with_any_number_of_micro_batches_is_no_slower() -> None:
    device = chip_device("nvidia/h200", catalog.load())
    values = draw(load_posterior(), Stack("nvidia/h200", device.family, "megatron-bridge", dtype="fp8"))
    model = arch.load("meta-llama/Meta-Llama-3.1-405B")
    task = Task(sequence_tokens=8192, batch_sequences=1152, dtype="fp8", grad_bytes=2.0)
    times = [
        search(model, device, task, devices=2048, values=values,
               limits=Limits(tp=(4,), pp=(16,), cp=(2,), loose_groups=loose)).seconds[0]
        for loose in (False, True)
    ]  # fmt: skip
    assert times[1] < times[0]
