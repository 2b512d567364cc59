"""What the parser makes of the structures that differ from a plain transformer."""

from __future__ import annotations

from typing import Any

import pytest

from offramp import arch

LLAMA4: dict[str, Any] = {
    "architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4",
    "text_config": {
        "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
        "num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "vocab_size": 202048,
        "attention_chunk_size": 8192,
    },
    "vision_config": {"hidden_size": 1408},
}  # fmt: skip


def kinds(model: arch.Model) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for group in model.layers:
        key = (group.attention.kind, group.mlp.kind)
        found[key] = found.get(key, 0) + group.count
    return found


def test_leading_dense_layers() -> None:
    assert kinds(arch.load("deepseek-ai/DeepSeek-V3")) == {("mla", "dense"): 3, ("mla", "moe"): 58}


def test_alternating_window() -> None:
    model = arch.load("openai/gpt-oss-120b")
    windows = {group.attention.window_tokens: group.count for group in model.layers}
    assert windows == {128: 18, 0: 18}


def test_text_config_interleaved_experts_and_chunks() -> None:
    model = arch.parse_config(LLAMA4, where="config.json")
    assert kinds(model) == {("gqa", "dense"): 24, ("gqa", "moe"): 24}
    assert sum(group.count for group in model.layers if group.attention.window_tokens == 8192) == 36
    assert model.parameters_total / 1e9 == pytest.approx(400.7, rel=0.001)
    assert "vision_config" in model.notes[0]


def test_hybrid_linear_attention() -> None:
    model = arch.load("Qwen/Qwen3.5-397B-A17B")
    assert kinds(model) == {("linear", "moe"): 45, ("gqa", "moe"): 15}
    full = next(group.attention for group in model.layers if group.attention.kind == "gqa")
    assert full.output_gate_dim == full.heads * full.head_dim


def test_mamba_hybrid_blocks_have_one_part_each() -> None:
    model = arch.load("nvidia/Nemotron-H-56B-Base-8K")
    assert set(kinds(model)) == {("ssm", "none"), ("gqa", "none"), ("none", "dense")}


def test_sparse_attention_with_shared_choices() -> None:
    first, second = arch.load("zai-org/GLM-5"), arch.load("zai-org/GLM-5.2")
    assert all(group.attention.sparse_topk == 2048 for group in first.layers)
    shared = sum(group.count for group in second.layers if group.attention.index_shared)
    assert shared == 57
    assert second.kv_bytes_per_token() == first.kv_bytes_per_token() - 57 * (128 + 4)


def test_compressed_attention() -> None:
    model = arch.load("deepseek-ai/DeepSeek-V4-Pro")
    ratios = {}
    for group in model.layers:
        a = group.attention
        ratios[a.compress_ratio] = ratios.get(a.compress_ratio, 0) + group.count
        assert a.window_tokens == 128
        assert (a.sparse_topk == 1024) == (a.compress_ratio == 4)
    assert ratios == {128: 31, 4: 30}
    assert sum(group.count for group in model.layers if group.mlp.hash_routed) == 3


def test_window_layers_stop_growing() -> None:
    model = arch.load("mistralai/Mistral-7B-v0.1")
    assert model.kv_bytes_per_token() == 0
    assert model.kv_bytes(4096) == model.kv_bytes(32768) == model.kv_bytes_fixed_per_sequence()
    assert model.kv_bytes(1024) == 1024 * 2 * 32 * 8 * 128 * 2


def test_growth_and_fixed_part_add_up_beyond_the_window() -> None:
    for model_id in arch.presets():
        model = arch.load(model_id)
        for length in (16_384, 100_000):
            total = model.kv_bytes(length)
            assert total == pytest.approx(model.kv_bytes_fixed_per_sequence() + length * model.kv_bytes_per_token())


def test_what_a_quantised_checkpoint_keeps_in_bf16() -> None:
    kimi = arch.load("moonshotai/Kimi-K2.5")
    assert arch.part_dtypes(kimi)["attention"] == "bf16"
    assert arch.part_dtypes(kimi)["experts"] == "int4"
    pro = arch.load("deepseek-ai/DeepSeek-V4-Pro")
    assert arch.part_dtypes(pro)["attention"] == "fp8"
    assert arch.part_dtypes(pro)["experts"] == "fp4"
    oss = arch.load("openai/gpt-oss-120b")
    assert arch.part_dtypes(oss)["attention"] == "bf16"


def test_asking_for_a_dtype_quantises_layers_only() -> None:
    model = arch.load("Qwen/Qwen3-32B")
    ends = 2 * model.vocab * model.hidden + model.parameter_breakdown["norm"]
    layers = model.parameters_total - ends
    assert model.weight_bytes("int8") == pytest.approx(layers + 2 * ends)
    assert model.weight_bytes("bf16") == model.weight_bytes() == 2 * model.parameters_total


QUANT = {
    "fp8-block": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", "fp8"),
    "w8a8": (
        {"quant_method": "compressed-tensors", "ignore": ["lm_head"], "config_groups": {"group_0": {
            "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
            "input_activations": {"num_bits": 8, "type": "int"}}}}, "int8", "int8"),
    "w4a16": (
        {"quant_method": "compressed-tensors", "ignore": ["lm_head"], "config_groups": {"group_0": {
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}}}}, "int4", "bf16"),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", "bf16"),
    "gptq": ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8", "bf16"),
    "nvfp4": ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, "fp4", "fp4"),
    "mxfp4": ({"quant_method": "mxfp4"}, "fp4", "bf16"),
    "bnb-nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", "bf16"),
    "bnb-int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", "bf16"),
}  # fmt: skip


@pytest.mark.parametrize("scheme", QUANT)
def test_quantization_schemes(scheme: str) -> None:
    config, weights, activations = QUANT[scheme]
    base = {
        "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
        "intermediate_size": 4096, "vocab_size": 1000, "quantization_config": config,
    }  # fmt: skip
    quant = arch.parse_config(base, where="x").quantization
    assert quant is not None
    assert (quant.scheme, quant.weights_dtype, quant.activation_dtype) == (scheme, weights, activations)
    assert "lm_head" in quant.excluded or scheme in ("nvfp4",)


def test_unknown_quantization_is_refused_by_name() -> None:
    from offramp.core.errors import ModelRangeError

    base = {
        "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
        "intermediate_size": 4096, "vocab_size": 1000, "quantization_config": {"quant_method": "sorcery"},
    }  # fmt: skip
    with pytest.raises(ModelRangeError) as caught:
        arch.parse_config(base, where="config.json")
    assert caught.value.where == "config.json:$.quantization_config.quant_method"
