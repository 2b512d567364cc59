"""Hits to findings: effort, replacement, stage and evidence for the target and torch version."""

from __future__ import annotations

import hashlib
import tomllib
from functools import lru_cache
from typing import Any, Final

from offramp.scan import symbols
from offramp.scan.finding import FileScan, Finding, Hit
from offramp.scan.fixable import has_fix
from offramp.scan.target import DATA, Target

ORDER: Final = ("L0", "L1", "L2", "L3", "L4")
_ROLE_STAGE: Final = frozenset({"test", "doc", "example", "benchmark"})


@lru_cache(maxsize=1)
def classes() -> dict[str, dict[str, str]]:
    """Detection classes by id."""
    return tomllib.loads((DATA / "classes.toml").read_text(encoding="utf-8"))


def version_of(text: str) -> tuple[int, ...]:
    """A torch version as a tuple ("2.10" -> (2, 10)); empty for ""."""
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2] if part.isdigit())


def judge(scan: FileScan, *, target: Target, torch: tuple[int, ...]) -> list[Finding]:
    """The findings of one file."""
    found: list[Finding] = []
    seen: dict[str, int] = {}
    for hit, snippet in zip(scan.hits, scan.snippets, strict=True):
        verdict = _verdict(hit, target=target, torch=torch)
        key = f"{scan.path}|{hit.kind}|{hit.symbol}|{hit.context}|{snippet}"
        seen[key] = seen.get(key, 0) + 1
        fingerprint = hashlib.blake2b(f"{key}|{seen[key]}".encode("utf-8", "replace"), digest_size=10).hexdigest()
        found.append(
            Finding(
                path=scan.path, line=hit.line, end_line=hit.end_line, column=hit.column, symbol=hit.symbol,
                kind=hit.kind,
                effort=verdict["effort"], replacement=verdict["replacement"], guarded=hit.guarded, target=target.chip,
                role=scan.role,
                stage=_stage(hit, scan, verdict["stage"]), message=verdict["message"], evidence=verdict["evidence"],
                verified=verdict["verified"], context=hit.context, snippet=snippet, fixable=has_fix(hit, torch=torch),
                fingerprint=fingerprint, also=hit.also,
                also_lines=hit.also_lines or (hit.line,) * len(hit.also), related=hit.related,
            )
        )  # fmt: skip
    return found


def _stage(hit: Hit, scan: FileScan, stage: str) -> Any:
    if stage == "first-run" and (hit.guarded or scan.role in _ROLE_STAGE or hit.note == "optional"):
        return "later"
    return stage


def _verdict(hit: Hit, *, target: Target, torch: tuple[int, ...]) -> dict[str, Any]:
    """Effort, replacement, message, stage and evidence of one hit."""
    row = classes()[hit.kind]
    fills = _fills(hit, target)
    verdict: dict[str, Any] = {
        "effort": row["effort"],
        "stage": row["stage"],
        "message": row["message"].format(**fills),
        "replacement": row["replacement"].format(**fills),
        "evidence": f"class {hit.kind}",
        "verified": True,
    }
    if hit.kind in ("lib.import", "infra.deps", "lib.option"):
        _by_package(hit, verdict, target)
    elif hit.kind in ("op.limited", "numerics"):
        _by_operator(hit, verdict, target)
    else:
        _by_symbol(hit, verdict, target, torch=torch)
    if hit.hint.startswith("L") and hit.hint in ORDER:
        verdict["effort"] = hit.hint
    if hit.hint in ORDER and hit.note and hit.kind != "cuda.source":  # rules by line say what stands there instead
        verdict["replacement"] = _safe(hit.note, fills)
    return verdict


def _fills(hit: Hit, target: Target) -> dict[str, str]:
    return {
        "symbol": hit.symbol, "device": target.device, "name": target.name, "dist_backend": target.dist_backend,
        "image": target.image,
        "gpu_resource": target.gpu_resource, "monitor": target.monitor, "kernels": target.kernels,
        "launch": target.launch,
        "visible_env": target.visible_env, "note": hit.note or "limited",
        "grid_max": str(target.triton_grid_max) if target.triton_grid_max else "the target's limit",
    }  # fmt: skip


def _safe(template: str, fills: dict[str, str]) -> str:
    try:
        return template.format(**fills)
    except (KeyError, IndexError, ValueError):
        return template


def _by_symbol(hit: Hit, verdict: dict[str, Any], target: Target, *, torch: tuple[int, ...]) -> None:
    """Effort and replacement from the symbol table: the agnostic form where this torch has it, else the vendor's."""
    if hit.symbol == "CUDA graphs":
        verdict["stage"], verdict["replacement"] = "full-speed", "off for the first run; then the target's own graphs"
        return
    table = symbols.table_for(target.column)
    row = table.get(hit.symbol) or table.get(hit.symbol.rsplit(".", 1)[0] if hit.symbol.count(".") > 2 else "")
    if row is None:
        return
    agnostic = row.agnostic if not row.since_torch or not torch or torch >= version_of(row.since_torch) else ""
    vendor = row.replacement if row.replacement not in ("", "unsupported", "unverified", "none") else ""
    verdict["effort"] = _by_support(row, target, has_agnostic=agnostic.startswith("torch.accelerator"))
    both = " or ".join(part for part in (agnostic, vendor) if part)
    if both:
        verdict["replacement"] = both
    verdict["evidence"] = f"symbols.csv: {row.symbol} ({row.source.split(';')[0]})"
    verdict["verified"] = row.verified


def _by_support(row: symbols.Row, target: Target, *, has_agnostic: bool) -> str:
    """The row's effort, raised where the vendor's list says no for this generation."""
    effort = row.effort
    if target.generation and f"{target.generation}:no" in row.support and ORDER.index(effort) < 2 and not has_agnostic:
        effort = "L2" if row.kind != "torch.backends" else effort
    if target.column and not row.replacement and effort == "L0" and not has_agnostic and row.kind.startswith("torch"):
        effort = "L1"
    if not target.column and not has_agnostic and effort == "L0" and row.kind.startswith("torch"):
        effort = "L1"
    return effort


def _by_package(hit: Hit, verdict: dict[str, Any], target: Target) -> None:
    """Effort and replacement from the package table."""
    row = symbols.packages().get(hit.symbol) or symbols.distributions().get(symbols.normal(hit.symbol))
    if row is None and hit.kind == "lib.option":
        row = symbols.packages().get(hit.note)
    if row is None:
        return
    swap = row.get(target.column, "") if target.column else ""
    options = [text for text in (swap if swap not in ("none", "unverified") else "", row["agnostic"]) if text]
    verdict["effort"] = row["effort"] if swap not in ("none",) or row["effort"] in ("L3", "L4") else "L2"
    if hit.kind == "lib.option" and ORDER.index(verdict["effort"]) > 1:
        verdict["effort"] = "L1"  # to choose another implementation; the package itself counts where it is imported
    verdict["replacement"] = " or ".join(options) or "no known swap"
    verdict["evidence"] = f"packages.csv: {row['import']}" + (f" ({row['source']})" if row["source"] else "")
    verdict["verified"] = row["verified"] == "yes" and "unverified" not in swap
    if row["kind"] == "monitor" or row["kind"] == "profile":
        verdict["stage"] = "later"


def _by_operator(hit: Hit, verdict: dict[str, Any], target: Target) -> None:
    if hit.symbol in symbols.LIMITED:
        _, verdict["effort"], verdict["replacement"] = symbols.LIMITED[hit.symbol]
        verdict["evidence"] = f"operator list: {hit.symbol} (Ascend/pytorch@9e73e70)"
        verdict["verified"] = target.vendor == "huawei"
    elif hit.symbol in symbols.operators():
        row = symbols.operators()[hit.symbol]
        verdict["replacement"] = "compose it from supported operators, or run it on the host"
        verdict["evidence"] = f"operators.csv: {hit.symbol}, {row['huawei_support']} ({row['source']})"
    elif hit.symbol in symbols.NONFINITE:
        verdict["effort"], verdict["replacement"] = "L1", symbols.NONFINITE[hit.symbol]
        verdict["evidence"] = f"numerics: {hit.symbol} (Ascend/pytorch@9e73e70:inf_nan_difference_apis)"
    elif hit.symbol in symbols.NUMERICS:
        verdict["effort"], verdict["replacement"] = symbols.NUMERICS[hit.symbol]
        verdict["evidence"] = f"numerics: {hit.symbol}"
    elif hit.symbol.startswith("torch.float8"):
        verdict["replacement"] = "BF16 or INT8 (W8A8) where the target has no FP8"
        verdict["evidence"] = "numerics: FP8 (vllm-project/vllm-ascend support matrix)"
    elif "tf32" in hit.symbol:
        verdict["effort"] = "L1"
        verdict["replacement"] = "the target's own switch (HF32 differs from TF32); compare results"
        verdict["evidence"] = f"symbols.csv: {hit.symbol}"
