"""What each engine is told: command-line flags of vLLM and SGLang, keys of MindIE's configuration."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from offramp.catalog import Chip

DATA: Final = Path(__file__).resolve().parents[1] / "data" / "launch"
PORT: Final = 8000
MINDIE_CONTEXT: Final = 32768
"""Context where the model's is not known. Assumed; MindIE needs a number."""


@lru_cache(maxsize=1)
def data() -> dict[str, Any]:
    """Engines, flags and manifests."""
    return tomllib.loads((DATA / "engines.toml").read_text("utf-8"))


def image_of(known: dict[str, Any], chip: str, version: str) -> str:
    """The container image of an engine for a chip; "" where no source names one."""
    images: dict[str, str] = known.get("image", {})
    fitting = [name for name in images if fnmatchcase(chip, name if "/" in name else f"{name}/*")]
    return images[max(fitting, key=len)].format(version=version) if fitting else ""


def effective_dtype(entry: dict[str, Any]) -> str:
    """The precision that the weights need: the layout's, or what the chip falls back to."""
    dtype, fallback = str(entry["layout"]["weights_dtype"]), str(entry["precision_fallback"])
    if dtype in ("checkpoint", ""):
        for mark, name in (("INT8", "int8"), ("BF16", "bf16"), ("INT4", "int4")):
            if f"as {mark}" in fallback or f"as W8A8 {mark}" in fallback or f"as W4A16 {mark}" in fallback:
                return name
    return dtype


Setting = tuple[str, str, str]


def _vllm(
    layout: dict[str, Any], known: dict[str, Any], item: dict[str, Any], chip: Chip, context: int, model: Any
) -> tuple[list[Setting], list[str]]:
    notes: list[str] = []
    out: list[Setting] = [("--host", "0.0.0.0", "listens on every address of the pod"), ("--port", str(PORT), "port")]
    out.append(("--tensor-parallel-size", str(layout["tp"]), "tensor parallel degree of the layout"))
    if layout["pp"] > 1:
        out.append(("--pipeline-parallel-size", str(layout["pp"]), "pipeline parallel degree of the layout"))
    if layout["dp"] > 1:
        out.append(("--data-parallel-size", str(layout["dp"]), "data-parallel attention ranks of the layout"))
    if layout["ep"] > 1:
        out.append(("--enable-expert-parallel", "", f"experts over all {layout['tp'] * layout['dp']} ranks"))
        if layout["ep"] != layout["tp"] * layout["dp"]:
            notes.append(
                f"the layout has EP {layout['ep']}; vLLM's expert parallel degree is always TP x DP = "
                f"{layout['tp'] * layout['dp']}"
            )
    out.append(
        ("--max-num-batched-tokens", str(layout["max_batch_tokens"]), "token budget of a step, per data-parallel rank")
    )
    out.append(
        ("--max-num-seqs", str(layout["max_seqs"] * layout["pp"]), "sequences in flight, per data-parallel rank")
    )
    if context:
        out.append(
            ("--max-model-len", str(context), "longest context that the model allows; lower it to what users need")
        )
    special = known.get("quantization", {}).get(layout["weights_dtype"], "")
    precision, about = _precision(layout["weights_dtype"], special, model, item["model"])
    return [*out, *precision], [*notes, *about]


def _precision(dtype: str, special: str, model: Any, name: str) -> tuple[list[Setting], list[str]]:
    """How vLLM and SGLang are told the precision of the weights, and the checkpoint that it takes.

    Args:
        dtype: that the layout was priced with.
        special: quantisation method that the flag has to name; "" where the engine finds it in the checkpoint.
        model, name: the model and what it is called.
    """
    stored = stored_dtype(model)
    if special and dtype != stored:
        return [("--quantization", special, f"{dtype} weights")], [
            f"needs a checkpoint of {name} quantised to {dtype} for this engine (method {special})"
        ]
    if dtype in ("checkpoint", "", stored):
        return [], []
    if dtype == "fp8" and stored == "bf16":
        return [("--quantization", "fp8", "weights are quantised to FP8 on loading")], []
    if dtype in ("bf16", "fp16"):
        word = "bfloat16" if dtype == "bf16" else "float16"
        about = [f"{name} is stored in {stored}: needs a checkpoint in {dtype}"] if stored not in ("bf16", "") else []
        return [("--dtype", word, f"weights in {dtype}")], about
    return [], [f"needs a checkpoint of {name} quantised to {dtype}; the engine reads the method from its config.json"]


def stored_dtype(model: Any) -> str:
    """The weight precision of the checkpoint; "" where the model is not known."""
    if model is None:
        return ""
    return str(model.quantization.weights_dtype) if model.quantization is not None else "bf16"


def _sglang(
    layout: dict[str, Any], known: dict[str, Any], item: dict[str, Any], chip: Chip, context: int, model: Any
) -> tuple[list[Setting], list[str]]:
    ranks = layout["tp"] * layout["dp"]
    out: list[Setting] = [("--host", "0.0.0.0", "listens on every address of the pod"), ("--port", str(PORT), "port")]
    out.append(("--tp-size", str(ranks), "all ranks of a pipeline stage: TP x DP of the layout"))
    if layout["pp"] > 1:
        out.append(("--pp-size", str(layout["pp"]), "pipeline parallel degree of the layout"))
    if layout["dp"] > 1:
        out.append(("--dp-size", str(layout["dp"]), "data-parallel attention ranks of the layout"))
        out.append(("--enable-dp-attention", "", "attention is data parallel inside the ranks of --tp-size"))
    if layout["ep"] > 1:
        out.append(("--ep-size", str(layout["ep"]), "expert parallel degree of the layout"))
    out.append(
        (
            "--chunked-prefill-size",
            str(layout["max_batch_tokens"] * layout["dp"]),
            "token budget of a step, divided over data-parallel ranks",
        )
    )
    out.append(
        (
            "--max-running-requests",
            str(layout["max_seqs"] * layout["dp"] * layout["pp"]),
            "sequences in flight, divided over data-parallel ranks",
        )
    )
    if context:
        out.append(
            ("--context-length", str(context), "longest context that the model allows; lower it to what users need")
        )
    on_npu = chip.id.startswith("huawei/")
    if on_npu:
        out.append(("--device", "npu", "Ascend backend"))
        out.append(("--attention-backend", "ascend", "attention kernels of the Ascend backend"))
    special = known.get("quantization_npu", {}).get(layout["weights_dtype"], "") if on_npu else ""
    precision, notes = _precision(layout["weights_dtype"], special, model, item["model"])
    return [*out, *precision], notes


def _mindie(
    layout: dict[str, Any], known: dict[str, Any], item: dict[str, Any], chip: Chip, context: int, model: Any
) -> tuple[list[Setting], list[str]]:
    del known, chip
    longest = context or MINDIE_CONTEXT
    out: list[Setting] = [("worldSize", str(layout["devices"]), "devices of one replica")]
    out.append(("npuDeviceIds", str([list(range(layout["devices"]))]), "devices of the node"))
    out += [
        ("tp", str(layout["tp"]), "tensor parallel degree"),
        ("dp", str(layout["dp"]), "data-parallel attention ranks"),
    ]
    if layout["ep"] > 1 or (model is not None and getattr(model, "experts", 0)):
        ranks = layout["tp"] * layout["dp"]
        out += [
            ("moe_ep", str(layout["ep"]), "expert parallel degree"),
            ("moe_tp", str(max(ranks // layout["ep"], 1)), "tensor parallel degree of experts"),
        ]
    out.append(("maxSeqLen", str(longest), "longest context"))
    out.append(("maxInputTokenLen", str(longest - 1), "longest prompt"))
    out.append(
        (
            "maxPrefillTokens",
            str(max(layout["max_batch_tokens"], longest - 1)),
            "tokens of a prefill batch; at least maxInputTokenLen",
        )
    )
    out.append(("maxBatchSize", str(layout["max_seqs"]), "sequences of a decode batch"))
    out.append(("maxIterTimes", str(longest), "longest answer"))
    notes = [
        "MindIE takes prompts and answers in separate batches unless templateType is Mix; the assessment priced "
        "chunked prefill"
    ]
    notes.append("the server speaks plain HTTP: put TLS before it, or set httpsEnabled and its certificates")
    notes.append(
        "documentation after 3.0.0 starts the server as mindie_llm_server in the folder mindie_llm: see which your image has"
    )
    system_devices = layout.get("per_server", layout["devices"])
    if layout["devices"] > system_devices:
        notes.append(
            "MindIE over several servers needs a rank table on each of them (RANK_TABLE_FILE): write it from your addresses"
        )
    if layout["weights_dtype"] == "int8":
        notes.append(f"needs a W8A8 checkpoint of {item['model']} made with MindStudio ModelSlim")
    if layout["pp"] > 1:
        notes.append("MindIE's configuration has no pipeline parallel degree: this layout cannot be started as it is")
    return out, notes


SETTINGS: Final = {"vllm": _vllm, "sglang": _sglang, "mindie": _mindie}
