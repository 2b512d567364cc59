"""Published rows are read as they are printed, and bad ones are named."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offramp import arch, catalog
from offramp.core.errors import CatalogError
from offramp.train.cases import Case, build, chip_device, model_of, usable_devices
from offramp.train.decision import Stage, judge
from offramp.train.features import features, imbalance
from offramp.train.layout import Layout, Task, grid_of
from offramp.train.rows import Rejected, TrainRow, is_training, read_row
from offramp.train.work import model_work

KNOWN = frozenset(catalog.load().chips)
ROW = {
    "id": "r1", "accelerator": "NVIDIA H100 SXM 80GB", "n_accelerators": "1024", "model": "LLAMA3.1_405B",
    "precision": "FP8",
    "framework": "Megatron-Bridge (NeMo) Pre-Training Performance", "framework_version": "26.06 NeMo Container",
    "tp": "8",
    "pp": "8", "vp": "8", "cp": "2", "ep": "n/a", "global_batch_seqs": "1536", "micro_batch": "1", "seq_len": "8192",
    "step_time_s": "37.693", "tokens_per_s_per_gpu": "326", "source": "x", "confidence": "measured-by-vendor",
}  # fmt: skip


def read(**changes: str) -> TrainRow:
    found = read_row({**ROW, **changes}, KNOWN)
    assert isinstance(found, TrainRow)
    return found


def test_row_is_read() -> None:
    row = read()
    assert (row.chip.id if row.chip else "", row.framework.id, row.release) == (
        "nvidia/h100",
        "megatron-bridge",
        "26.06",
    )
    assert (row.tp, row.pp, row.vp, row.cp, row.ep, row.batch_sequences) == (8, 8, 8, 2, 0, 1536)
    assert row.metrics == {"step_time_s": 37.693, "tokens_per_s_per_chip": 326.0}


@pytest.mark.parametrize(
    ("framework", "source", "row_id", "found"),
    [("", "mlcommons/training_results_v5.1", "a", "mlperf-nemo"), ("", "", "mbridge-26.10-x", "megatron-bridge"),
     ("", "arXiv 2205.05198 Table 5", "a", "megatron-2022"), ("", "", "korth-megatron-530B-full", "megatron-2022"),
     ("Megatron-LM", "Korthikanti et al.", "a", "megatron-2022"), ("torchtitan", "", "mbridge-like", "torchtitan"),
     ("", "", "a", "other")],
)  # fmt: skip
def test_a_framework_is_found_where_a_table_names_it(framework: str, source: str, row_id: str, found: str) -> None:
    assert read(framework=framework, source=source, id=row_id).framework.id == found


def sends(**changes: object) -> float:
    model, device = arch.load("meta-llama/Meta-Llama-3.1-405B"), chip_device("nvidia/h100", catalog.load())
    task = Task(sequence_tokens=8192, batch_sequences=1152, async_sends=bool(changes.pop("async_sends", True)))
    layout = Layout(**({"tp": 4, "pp": 16, "cp": 2, "dp": 16, "vp": 4} | changes))  # type: ignore[arg-type]
    return float(features(model_work(model), device, task, grid_of([layout])).hop[0])


def test_sends_are_waited_for_where_nothing_runs_beside_them() -> None:
    assert sends() < sends(async_sends=False)
    assert sends(vp=1) == sends(vp=1, async_sends=False)  # 1F1B has no other chunk
    filling = (2 * 15 + 3 * 16) / (72 * 4)  # warm-up passes of all
    assert sends() / sends(async_sends=False) == pytest.approx(filling + (1 - filling) * 0.1)


@pytest.mark.parametrize(
    ("published", "chip"),
    [("NVIDIA Blackwell Ultra GPU (GB300)", "nvidia/gb300"), ("NVIDIA H200-SXM5-141GB", "nvidia/h200"),
     ("Ascend 910B (Atlas 800T A2)", "huawei/ascend-910b"), ("Ascend 910C (CloudMatrix384)", "huawei/ascend-910c"),
     ("AMD Instinct MI325X 256GB HBM3E DLC", "amd/mi325x"), ("nvidia/a100", "nvidia/a100"),
     ("NVIDIA H200-NVL-141GB", "nvidia/h200"), ("Ascend 910B2 (Atlas 800T A2)", "huawei/ascend-910b2"),
     ("Atlas 900 A3 SuperPoD", "huawei/ascend-910c"), ("TPU v5p", "google/v5p")],
)  # fmt: skip
def test_chip_names_are_mapped_by_data(published: str, chip: str) -> None:
    row = read(accelerator=published)
    assert row.chip is not None
    assert row.chip.id == chip


@pytest.mark.parametrize("published", ["NVIDIA H100 PCIe 80GB", "NVIDIA GH200 96GB", "NVIDIA Rubin VR200"])
def test_a_chip_that_is_not_held_is_refused_by_name(published: str) -> None:
    with pytest.raises(CatalogError, match="unknown chip"):
        build(read(accelerator=published), catalog.load())


def test_a_smaller_memory_of_the_same_chip_is_its_own() -> None:
    found = build(read(accelerator="NVIDIA A100 40GB", model="MPT-13b", precision="amp_bf16", tp="", pp="", vp="",
                       cp="", framework="llm-foundry / Composer FSDP", global_batch_seqs="1024", micro_batch="4",
                       n_accelerators="128", step_time_s="30", tokens_per_s_per_gpu=""), catalog.load())  # fmt: skip
    assert isinstance(found, Case)
    assert found.device.memory_bytes <= 40e9


@pytest.mark.parametrize(
    ("published", "preset"),
    [("llama31_405b", "meta-llama/Meta-Llama-3.1-405B"), ("gpt3", "openai/gpt-3-175b"),
     ("MPT-70b", "mosaicml/mpt-70b"), ("MPT-1b", "mosaicml/mpt-1b"), ("NemotronH_56B", "nvidia/Nemotron-H-56B-Base-8K"),
     ("Qwen3_Next_80B_a3B", "Qwen/Qwen3-Next-80B-A3B-Instruct"), ("MT-NLG 530B", "nvidia/megatron-530b")],
)  # fmt: skip
def test_names_of_training_tables_find_their_architecture(published: str, preset: str) -> None:
    assert model_of(read(model=published)).id == preset


def test_what_a_row_does_not_state_is_searched_or_mixed() -> None:
    bare = {"tp": "", "pp": "", "vp": "", "cp": "", "ep": "", "micro_batch": "", "tokens_per_s_per_gpu": ""}
    found = build(read(**bare, precision="", framework="NVIDIA Release 25.09", framework_version="v5.1",
                       source="mlcommons/training_results_v5.1:Someone", accelerator="NVIDIA GB200"), catalog.load())  # fmt: skip
    assert isinstance(found, Case)
    assert len(found.grid) > 100
    assert not found.stated
    assert found.other is not None
    assert {found.task.dtype, found.other.task.dtype} == {"fp4", "fp8"}


def test_a_benchmark_default_that_the_chip_lacks_becomes_16_bit() -> None:
    found = build(read(precision="", framework="PyTorch", source="mlcommons/training_results_v3.1:X", tp="", pp="",
                       accelerator="NVIDIA A100 80GB", tokens_per_s_per_gpu=""), catalog.load())  # fmt: skip
    assert isinstance(found, Case)
    assert found.task.dtype == "bf16"


def test_experts_of_one_rank_average_out() -> None:
    ranks = np.array([1.0, 8.0, 64.0, 256.0])
    found = imbalance(ranks, 256.0, 0.035)
    assert found[0] == 1.0
    assert (np.diff(found) > 0).all()
    assert found[2] == pytest.approx(1.0 + 0.035 * 0.5 * math.sqrt(2.0 * math.log(64.0)))
    assert (imbalance(ranks, 256.0, 0.0) == 1.0).all()


def test_hardware_flop_a_third_above_model_flop_mean_full_recompute() -> None:
    assert read(mfu_pct="39.38", hfu_pct="52.5", conditions="activation checkpointing=").recompute == "full"
    assert read(mfu_pct="36.34", hfu_pct="36.34").recompute == "none"


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"step_time_s": "fast"}, "is no number"), ({"mfu_pct": "250"}, "impossible"),
     ({"step_time_s": "3.7"}, "of the batch"), ({"step_time_s": "-3"}, "impossible")],
)  # fmt: skip
def test_rows_that_cannot_be_right_are_named(changes: dict[str, str], why: str) -> None:
    found = read_row({**ROW, **changes}, KNOWN)
    assert isinstance(found, Rejected)
    assert why in found.why


def test_more_flop_than_the_peak_is_rejected() -> None:
    found = build(read(tokens_per_s_per_gpu="3000", step_time_s="", global_batch_seqs=""), catalog.load())
    assert isinstance(found, Rejected)


def test_serving_files_are_not_training_files() -> None:
    assert is_training(list(ROW))
    assert not is_training(["id", "chip", "model", "output_tok_s", "mfu_pct"])
    assert not is_training(["id", "chip", "model", "ttft_ms_mean"])


def test_about_ten_thousand_is_a_count_that_divides() -> None:
    assert usable_devices(10_000) == 9728
    assert usable_devices(2048) == 2048
    assert usable_devices(24) == 24


def test_trying_pays_only_above_its_break_even() -> None:
    stage = Stage(name="pretrain", success=0.5, port_s=10.0, failed_s=20.0, run_s=100.0, new_run_s=100.0, cost=100.0,
                  new_cost=40.0, delay_cost_per_s=1.0, attempt_cost=5.0)  # fmt: skip
    verdict = judge(stage)
    assert verdict.gain == pytest.approx(0.5 * (60.0 - 10.0) - 0.5 * 20.0 - 5.0)
    assert verdict.break_even_success == pytest.approx(25.0 / 70.0)
    at_even = judge(Stage(**{**{f: getattr(stage, f) for f in Stage.__struct_fields__}, "success": 25.0 / 70.0}))
    assert at_even.gain == pytest.approx(0.0, abs=1e-9)
    assert (
        judge(
            Stage(**{**{f: getattr(stage, f) for f in Stage.__struct_fields__}, "new_cost": 200.0})
        ).break_even_success
        is None
    )
