"""Loading: presets, published names, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from offramp import arch
from offramp.arch.load import preset_config
from offramp.core.errors import CatalogError, InputError, ModelRangeError, OfframpError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
}  # fmt: skip
MIXTRAL: dict[str, Any] = {
    **LLAMA, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 8,
    "num_experts_per_tok": 2,
}  # fmt: skip


def write(folder: Path, data: Any, name: str = "config.json") -> Path:
    file = folder / name
    file.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return file


def test_preset_by_id_case_and_bare_name() -> None:
    assert arch.load("deepseek-ai/DeepSeek-R1").id == "deepseek-ai/DeepSeek-R1"
    assert arch.load("deepseek-ai/deepseek-r1").id == "deepseek-ai/DeepSeek-R1"
    assert arch.load("DeepSeek-R1").id == "deepseek-ai/DeepSeek-R1"


def test_file_and_folder_give_the_same_model(tmp_path: Path) -> None:
    file = write(tmp_path, LLAMA)
    from_file, from_folder = arch.load(file), arch.load(str(tmp_path))
    assert from_file.parameters_total == from_folder.parameters_total
    assert from_file.layers == from_folder.layers


def test_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(LLAMA).encode())
    assert arch.load(file).hidden == 4096


def test_quantization_file_beside_the_config_is_read(tmp_path: Path) -> None:
    write(tmp_path, LLAMA)
    side = {
        "quantization": {
            "quant_algo": "NVFP4",
            "group_size": 16,
            "kv_cache_quant_algo": "FP8",
            "exclude_modules": ["lm_head"],
        }
    }
    write(tmp_path, side, "hf_quant_config.json")
    quant = arch.load(tmp_path).quantization
    assert quant is not None
    assert (quant.weights_dtype, quant.scheme, quant.kv_dtype) == ("fp4", "nvfp4", "fp8")


def test_unknown_name_gives_near_misses() -> None:
    with pytest.raises(CatalogError, match="Qwen/Qwen3-32B") as caught:
        arch.load("Qwen3-32BB", where="study.toml:$.workload[0].model")
    assert caught.value.where == "study.toml:$.workload[0].model"


@pytest.mark.parametrize("text", ["{", "[]", "", "nope", '{"hidden_size": NaN}', '{"a": 1, "a": 2}', "[" * 100_000])
def test_broken_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError):
        arch.load(write(tmp_path, text))


def test_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b'{"model_type": "\xff\xfe"}')
    with pytest.raises(InputError, match="UTF-8"):
        arch.load(file)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        arch.load(tmp_path / "config.json")


@pytest.mark.parametrize(
    "field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"]
)
def test_missing_field_is_named(field: str) -> None:
    data = {key: value for key, value in LLAMA.items() if key != field}
    with pytest.raises(InputError) as caught:
        arch.parse_config(data, where="config.json")
    assert caught.value.where == f"config.json:$.{field}"


@pytest.mark.parametrize("field", ["num_local_experts", "num_experts_per_tok"])
def test_missing_expert_field_is_named(field: str) -> None:
    data = {key: value for key, value in MIXTRAL.items() if key != field}
    with pytest.raises(InputError, match=field):
        arch.parse_config(data, where="config.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_key_value_heads", 64), ("num_key_value_heads", 7), ("num_attention_heads", 30), ("hidden_size", -1),
        ("num_hidden_layers", 0), ("num_hidden_layers", 1.5), ("hidden_size", "4096"), ("vocab_size", True),
        ("intermediate_size", float("nan")), ("num_hidden_layers", 10**9), ("tie_word_embeddings", "yes"),
    ],
)  # fmt: skip
def test_contradictory_or_mistyped_field_is_named(field: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        arch.parse_config({**LLAMA, field: value}, where="config.json")
    assert f"$.{field}" in caught.value.where


def test_more_experts_per_token_than_experts_is_refused() -> None:
    with pytest.raises(InputError, match="9 experts per token of 8"):
        arch.parse_config({**MIXTRAL, "num_experts_per_tok": 9}, where="config.json")


def test_layer_types_must_match_the_number_of_layers() -> None:
    with pytest.raises(InputError, match="layer_types"):
        arch.parse_config({**LLAMA, "layer_types": ["full_attention"] * 3}, where="config.json")


def test_unknown_layer_type_is_refused_by_name() -> None:
    with pytest.raises(ModelRangeError, match="telepathy"):
        arch.parse_config({**LLAMA, "layer_types": ["telepathy"] * 32}, where="config.json")


def test_unknown_model_type_is_refused_by_its_field() -> None:
    data = {**LLAMA, "model_type": "quantumformer", "architectures": ["QuantumForCausalLM"]}
    with pytest.raises(ModelRangeError) as caught:
        arch.parse_config(data, where="config.json")
    assert caught.value.where == "config.json:$.model_type"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_memory_slots", 64),
        ("kv_lora_rank", 512),
        ("n_routed_experts", 64),
        ("attn_res_block_size", 12),
        ("latent_moe_size", 8),
        ("sliding_window", 4096),
        ("attention_chunk_size", 8192),
    ],
)
def test_unknown_structural_field_is_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(ModelRangeError) as caught:
        arch.parse_config({**LLAMA, field: value}, where="config.json")
    assert caught.value.where == f"config.json:$.{field}"


@pytest.mark.parametrize(
    "field", ["attention_dropout", "rope_scaling", "eos_token_id", "initializer_range", "use_cache"]
)
def test_harmless_field_is_ignored(field: str) -> None:
    plain = arch.parse_config(LLAMA, where="x")
    assert arch.parse_config({**LLAMA, field: {"type": "yarn"} if "rope" in field else 1}, where="x") == plain


def test_encoder_decoder_is_refused() -> None:
    with pytest.raises(ModelRangeError, match="encoder-decoder"):
        arch.parse_config({**LLAMA, "is_encoder_decoder": True}, where="config.json")


@pytest.mark.parametrize(
    ("name", "preset", "dtype"),
    [
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-ai/DeepSeek-R1", ""),
        ("deepseek-ai/DeepSeek-R1-0528 (NVFP4-v2 on Blackwell)", "deepseek-ai/DeepSeek-R1", "fp4"),
        ("amd/Llama-3.1-405B-Instruct-FP8-KV (quark)", "meta-llama/Meta-Llama-3.1-405B", "fp8"),
        ("vllm-ascend/DeepSeek-V3.2-W8A8", "deepseek-ai/DeepSeek-V3.2", "int8"),
        ("nvidia/Llama-3.3-70B-Instruct-FP8/FP4", "meta-llama/Llama-3.3-70B-Instruct", ""),
        ("Eco-Tech/MiniMax-M2.5-w8a8-QuaRot", "MiniMaxAI/MiniMax-M2.5", "int8"),
        ("DEEPSEEK_R1_W4A8_PER_CHANNEL", "deepseek-ai/DeepSeek-R1", "int4"),
        ("Qwen/Qwen3-14B-AWQ-INT4", "Qwen/Qwen3-14B", "int4"),
        ("Qwen/Qwen3-32B-FP8", "Qwen/Qwen3-32B-FP8", ""),
        ("Qwen3-32B", "Qwen/Qwen3-32B", ""),
        ("QWEN3_235B_W8A8", "Qwen/Qwen3-235B-A22B", "int8"),
        ("zhipuai/GLM-5", "zai-org/GLM-5", ""),
    ],
)
def test_published_name_resolves(name: str, preset: str, dtype: str) -> None:
    found = arch.resolve_alias(name)
    assert found == (preset, dtype)


@pytest.mark.parametrize(
    "name",
    ["DeepSeek-class", "DeepSeek-R1/V3 671B", "Mixtral 8x7B (8 layers only)", "GLM-4.5V 106B", "DeepSeek-V4", "GPT 70B",
     "nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-BF16", "Eco-Tech/Qwen3.8-27B-w8a8", ""],
)  # fmt: skip
def test_a_name_that_is_not_sure_resolves_to_nothing(name: str) -> None:
    assert arch.resolve_alias(name) is None


def test_a_name_with_a_dtype_gets_that_dtype() -> None:
    model = arch.load("Qwen/Qwen3-14B-FP8")
    assert model.quantization is not None
    assert model.quantization.weights_dtype == "fp8"
    assert any("assumed" in note for note in model.notes)


def test_every_error_is_of_the_tree_for_damaged_presets() -> None:
    """Each field of several presets, damaged in turn, gives a model or an error of the tree."""
    for model_id in ("deepseek-ai/DeepSeek-V4-Pro", "Qwen/Qwen3.5-397B-A17B", "nvidia/Nemotron-H-56B-Base-8K"):
        config = preset_config(model_id)
        for field in config:
            for bad in (None, -3, "x", [], {}, 0, 10**12, True):
                try:
                    arch.parse_config({**config, field: bad}, where="config.json")
                except OfframpError as error:
                    assert error.where
