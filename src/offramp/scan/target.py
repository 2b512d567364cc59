"""Target: what a port writes on the chosen chip, and which words in code show that the chip is already served."""

from __future__ import annotations

import csv
import fnmatch
import importlib.resources
import io
import tomllib
from functools import lru_cache
from typing import Any, Final

from offramp.core.errors import CatalogError
from offramp.core.record import Record

DATA: Final = importlib.resources.files("offramp.data") / "scan"


class Target(Record):
    """One vendor's stack, and the chip's generation in it.

    Attributes:
        chip: catalogue id as asked for.
        generation: the vendor's generation in the support lists ("A2"); "" where there is none.
        device: device type in torch ("npu").
        words: words in identifiers and strings that show a branch for it.
        column: column of the symbol tables that names its replacements; "" for none.
        torch_cuda_api: its PyTorch answers to the torch.cuda names.
        cuda_source: its compiler takes CUDA source as it is, so that code behind USE_CUDA serves it.
        triton_grid_max, triton_local_bytes: limits of its Triton; 0 where there is none known.
    """

    chip: str
    vendor: str
    name: str
    device: str
    plugin: str
    dist_backend: str
    words: frozenset[str]
    column: str
    gpu_resource: str
    monitor: str
    image: str
    launch: str
    visible_env: str
    kernels: str
    source: str
    generation: str = ""
    torch_cuda_api: bool = False
    cuda_source: bool = False
    triton_grid_max: int = 0
    triton_local_bytes: int = 0
    no_fp64: bool = False
    no_tf32: bool = False

    @property
    def native_words(self) -> frozenset[str]:
        """Words that show a branch for it in C++, build files and configuration, where torch's names do not count."""
        return self.words if self.torch_cuda_api and not self.cuda_source else self.words | {self.device}

    def answers_as_cuda(self, words: frozenset[str]) -> bool:
        """True when the target takes the branch of CUDA because its PyTorch answers to that name, not by its own."""
        return self.torch_cuda_api and not self.cuda_source and "cuda" in words and not words & self.words

    def covers(self, words: frozenset[str]) -> bool:
        """True when these device words show that the code already knows the target."""
        if words & self.words or self.device in words:
            return True
        return self.torch_cuda_api and "cuda" in words


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    return tomllib.loads((DATA / "targets.toml").read_text(encoding="utf-8"))


def load_target(chip: str) -> Target:
    """The target of a catalogue id ("huawei/ascend-910b2").

    Raises:
        CatalogError: the chip is the one to leave.
    """
    if chip.startswith("nvidia/"):
        raise CatalogError(
            f"{chip} runs CUDA; a scan needs the chip to move to",
            where="--target",
            mend='Try "huawei/ascend-910b2"; "offramp chips" lists all.',
        )
    for vendor, row in _tables().items():
        if any(fnmatch.fnmatchcase(chip, pattern) for pattern in row["chips"]):
            fields = {key: value for key, value in row.items() if key not in ("chips", "generations", "words")}
            ladder = row.get("generations", {})
            generation = next((gen for pattern, gen in ladder.items() if fnmatch.fnmatchcase(chip, pattern)), "")
            return Target(chip=chip, vendor=vendor, words=frozenset(row["words"]), generation=generation, **fields)
    raise CatalogError(f'no target table fits "{chip}"', where="--target")  # pragma: no cover - the last table fits all


@lru_cache(maxsize=8)
def read_rows(name: str) -> tuple[dict[str, str], ...]:
    """The rows of one table of the scan data ("symbols.csv")."""
    text = (DATA / name).read_text(encoding="utf-8")
    return tuple(csv.DictReader(io.StringIO(text, newline="")))
