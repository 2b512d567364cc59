"""Counted parameters, cache and weight bytes against what publishers and checkpoints state."""

from __future__ import annotations

from pathlib import Path

import pytest

from offramp import arch

# Published total and active, in 1e9. The Kimi report states 1.04 T, its model card 1 T.
PUBLISHED = {
    "MiniMaxAI--MiniMax-M2.5": (230, 10), "Qwen--Qwen3-235B-A22B": (235, 22), "Qwen--Qwen3-235B-A22B-FP8": (235, 22),
    "Qwen--Qwen3-30B-A3B": (30.5, 3.3), "Qwen--Qwen3-30B-A3B-FP8": (30.5, 3.3), "Qwen--Qwen3-32B": (32.8, 32.8),
    "Qwen--Qwen3-32B-FP8": (32.8, 32.8), "Qwen--Qwen3-8B": (8.2, 8.2), "deepseek-ai--DeepSeek-R1": (671, 37),
    "deepseek-ai--DeepSeek-V3": (671, 37), "deepseek-ai--DeepSeek-V3.2": (671, 37),
    "deepseek-ai--DeepSeek-V4-Pro": (1600, 49), "meta-llama--Meta-Llama-3.1-405B": (405, 405),
    "meta-llama--Meta-Llama-3.1-70B": (70.6, 70.6), "meta-llama--Meta-Llama-3.1-8B": (8, 8),
    "mistralai--Mixtral-8x7B-v0.1": (46.7, 12.9), "moonshotai--Kimi-K2.5": (1040, 32),
    "openai--gpt-oss-120b": (117, 5.1), "zai-org--GLM-5": (744, 40), "zai-org--GLM-5-FP8": (744, 40),
    "zai-org--GLM-5.1": (744, 40), "zai-org--GLM-5.1-FP8": (744, 40), "zai-org--GLM-5.2": (744, 40),
    "zai-org--GLM-5.2-FP8": (744, 40), "zai-org--GLM-5.3": (744, 40), "zai-org--GLM-5.3-FP8": (744, 40),
}  # fmt: skip


@pytest.mark.parametrize("model_id", arch.presets())
def test_preset_agrees_with_its_publisher(model_id: str) -> None:
    model, facts = arch.load(model_id), arch.preset(model_id)
    if facts.published_total:
        assert model.parameters_total / 1e9 == pytest.approx(facts.published_total, rel=0.02)
    if facts.published_active:
        assert model.parameters_active / 1e9 == pytest.approx(facts.published_active, rel=0.02)
    assert facts.source
    assert facts.url


def test_every_published_config_loads_and_agrees(shared: Path) -> None:
    files = sorted((shared / "models").glob("*_config.json"))
    assert {file.name.removesuffix("_config.json") for file in files} == set(PUBLISHED)
    for file in files:
        total, active = PUBLISHED[file.name.removesuffix("_config.json")]
        model = arch.load(file)
        assert model.parameters_total / 1e9 == pytest.approx(total, rel=0.02), file.name
        assert model.parameters_active / 1e9 == pytest.approx(active, rel=0.02), file.name


def test_preset_equals_the_config_that_it_was_made_from(shared: Path) -> None:
    for name in PUBLISHED:
        published = arch.load(shared / "models" / f"{name}_config.json")
        shipped = arch.load(name.replace("--", "/"))
        assert shipped.layers == published.layers, name
        assert shipped.parameters_total == published.parameters_total, name
        assert shipped.max_context_tokens == published.max_context_tokens, name
        assert shipped.weight_bytes() == pytest.approx(published.weight_bytes(), rel=1e-6), name


@pytest.mark.parametrize(
    ("model_id", "kv_bytes"),
    [
        ("meta-llama/Meta-Llama-3.1-8B", 2 * 32 * 8 * 128 * 2),
        ("meta-llama/Meta-Llama-3.1-405B", 2 * 126 * 8 * 128 * 2),
        ("Qwen/Qwen3-32B", 2 * 64 * 8 * 128 * 2),
        ("deepseek-ai/DeepSeek-V3", 61 * (512 + 64) * 2),
        ("deepseek-ai/DeepSeek-V3.2", 61 * ((512 + 64) * 2 + 128 + 4)),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 12 * 2 * 2 * 256 * 2),
        ("openai/gpt-oss-120b", 18 * 2 * 8 * 64 * 2),
        ("deepseek-ai/DeepSeek-V4-Pro", 30 * ((512 * 2 + 128 + 4) / 4) + 31 * 512 * 2 / 128),
    ],
)
def test_kv_bytes_per_token(model_id: str, kv_bytes: float) -> None:
    assert arch.load(model_id).kv_bytes_per_token() == pytest.approx(kv_bytes)


@pytest.mark.parametrize(
    ("model_id", "gigabytes", "tolerance"),
    [
        # Sums of the safetensors files on the model pages, MTP and vision weights taken off.
        ("openai/gpt-oss-120b", 65.2, 0.01),
        ("openai/gpt-oss-20b", 13.8, 0.01),
        ("moonshotai/Kimi-K2.5", 594, 0.02),
        ("meta-llama/Meta-Llama-3.1-8B", 16.06, 0.001),
        ("Qwen/Qwen3-32B", 65.5, 0.005),
        ("Qwen/Qwen3-32B-FP8", 34.3, 0.02),
    ],
)
def test_weight_bytes_of_checkpoints(model_id: str, gigabytes: float, tolerance: float) -> None:
    assert arch.load(model_id).weight_bytes() / 1e9 == pytest.approx(gigabytes, rel=tolerance)


def test_deepseek_checkpoint_with_its_mtp_layer() -> None:
    """The published checkpoint has 685 B parameters: 671 B and the MTP layer with its copies of embedding and head."""
    model = arch.load("deepseek-ai/DeepSeek-V3")
    copies = 2 * model.vocab * model.hidden
    assert (model.parameters_total + model.parameter_breakdown["mtp"] + copies) / 1e9 == pytest.approx(685, rel=0.002)


def test_names_of_measured_models_resolve(shared: Path) -> None:
    """Nine rows in ten name a model that is shipped."""
    import csv

    with (shared / "measurements" / "serving.csv").open(encoding="utf-8") as handle:
        names = [row["model"] for row in csv.DictReader(handle)]
    resolved = sum(arch.resolve_alias(name) is not None for name in names)
    assert resolved / len(names) > 0.97
