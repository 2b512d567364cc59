"""What the Python detectors find, and what they leave alone."""

from __future__ import annotations

import textwrap

import pytest

from offramp.scan.engine import scan_item
from offramp.scan.finding import FileScan, Hit
from offramp.scan.target import load_target
from offramp.scan.tree import Item

ASCEND = load_target("huawei/ascend-910b2")


def scan(code: str, *, path: str = "acme/run.py", target: str = "huawei/ascend-910b2") -> FileScan:
    text = textwrap.dedent(code)
    found = scan_item(Item(path, "python", "source", len(text)), text, target=load_target(target))
    assert not [note for note in found.notes if note.kind == "unreadable"], found.notes
    return found


def hits(code: str, **options: str) -> list[Hit]:
    return list(scan(code, **options).hits)


def kinds(code: str, **options: str) -> list[tuple[int, str]]:
    return [(hit.line, hit.kind) for hit in hits(code, **options) if hit.kind not in ("import.site", "text.mention")]


@pytest.mark.parametrize(
    ("code", "kind", "symbol"),
    [
        ("import torch\nx = torch.cuda.synchronize()", "torch.cuda", "torch.cuda.synchronize"),
        ("import torch as th\nth.cuda.empty_cache()", "torch.cuda", "torch.cuda.empty_cache"),
        ("from torch import cuda\ncuda.memory_allocated()", "torch.memory", "torch.cuda.memory_allocated"),
        ("import torch.cuda as tc\ntc.current_stream()", "torch.stream", "torch.cuda.current_stream"),
        ("import torch\ngetattr(torch, 'cuda').set_device(0)", "torch.cuda", "torch.cuda.set_device"),
        ("import torch\ndev = torch.cuda\ndev.synchronize()", "torch.cuda", "torch.cuda.synchronize"),
        ("import torch\nwith torch.cuda.amp.autocast(): pass", "torch.amp", "torch.cuda.amp.autocast"),
        ("import torch\nx = torch.zeros(3, device='cuda')", "device.string", '"cuda"'),
        ("import torch\nx = torch.device(f'cuda:{rank}')", "device.string", 'f"cuda:{}"'),
        ("import torch\ndef run(device='cuda:0'): pass", "device.string", '"cuda:0"'),
        ("import torch\nmodel.cuda()", "device.method", ".cuda()"),
        ("import torch\ny = x.is_cuda", "device.compare", "is_cuda"),
        ("import torch\ny = device.type == 'cuda'", "device.compare", '"cuda"'),
        ("import torch.distributed as dist\ndist.init_process_group('nccl')", "dist.backend", '"nccl"'),
        ("import torch.distributed as dist\ndist.init_process_group('cpu:gloo,cuda:nccl')", "dist.backend", '"cpu:gloo,cuda:nccl"'),
        ("import os\nos.environ['NCCL_DEBUG'] = 'INFO'", "env", "NCCL_DEBUG"),
        ("import os\nos.environ['CUDA_VISIBLE_DEVICES'] = '0'", "env", "CUDA_VISIBLE_DEVICES"),
        ("import flash_attn", "lib.import", "flash_attn"),
        ("from transformer_engine.pytorch import Linear", "lib.import", "transformer_engine"),
        ("load(attn_implementation='flash_attention_2')", "lib.option", '"flash_attention_2"'),
        ("import torch\nx = torch.float8_e4m3fn", "numerics", "torch.float8_e4m3fn"),
        ("import torch\nx = y.to(torch.float64)", "numerics", "torch.float64"),
        ("import torch\nx = y.to(memory_format=torch.channels_last)", "numerics", "torch.channels_last"),
        ("import torch\nm = torch.nn.DataParallel(m)", "op.limited", "torch.nn.DataParallel"),
        ("import torch\nm = torch.compile(m)", "compile", "torch.compile"),
        ("from torch.utils.cpp_extension import CUDAExtension", "build.ext", "torch.utils.cpp_extension.CUDAExtension"),
        ("import pynvml", "lib.import", "pynvml"),
        ("import subprocess\nsubprocess.run(['nvidia-smi'])", "monitor", "nvidia-smi"),
        ("import torch\nwith torch.cuda.nvtx.range('x'): pass", "monitor.profile", "torch.cuda.nvtx.range"),
        ("if 'CUDA out of memory' in str(error): pass", "memory.message", '"CUDA out of memory"'),
        ("parser.add_argument('--use_flash_attn')", "lib.option", "--use_flash_attn"),
    ],
)  # fmt: skip
def test_finds(code: str, kind: str, symbol: str) -> None:
    found = [(hit.kind, symbol) for hit in hits(code) for symbol in (hit.symbol, *hit.also)]
    assert (kind, symbol) in found, found


@pytest.mark.parametrize(
    "code",
    [
        "from httpx import AsyncClient\nclient = AsyncClient()",
        "occupy = 1\noccupied = occupy + 1",
        '"""This module does not use CUDA, cuda or torch.cuda at all."""\n# torch.cuda.synchronize() in a comment\nx = 1',
        "text = 'please read the barracuda manual'",
        "class Gpuck: pass",
        "import torch\nx = torch.zeros(3, device='cpu')",
        "devices = ['a', 'b']\nif mode == 'cpu': pass",
        "import numpy as np\nx = np.double()",
        "scuda = {'cudat': 1}",
    ],
)
def test_leaves_alone(code: str) -> None:
    assert hits(code) == []


def test_alias_on_a_line_without_the_word_is_found() -> None:
    assert (5, "torch.cuda") in kinds("import torch.cuda as tc\n\n\n\ntc.synchronize()\n")


def test_lines_are_one_based_and_spans_cover_the_statement() -> None:
    found = hits("import torch\n\nx = torch.zeros(\n    3,\n    device='cuda',\n)\n")
    assert [(hit.line, hit.end_line) for hit in found if hit.kind == "device.string"] == [(5, 5)]


def test_several_symbols_on_one_line_are_one_place() -> None:
    found = [
        hit
        for hit in hits("import torch\nx = torch.zeros(torch.cuda.device_count(), device='cuda')\n")
        if hit.line == 2
    ]
    assert len(found) == 1
    assert found[0].symbol == "torch.cuda.device_count"
    assert '"cuda"' in found[0].also


class TestGuards:
    def test_inside_a_device_check(self) -> None:
        code = "import torch\nif torch.cuda.is_available():\n    torch.cuda.synchronize()\n\n\n\ntorch.cuda.empty_cache()\n"
        found = {hit.line: hit.guarded for hit in hits(code)}
        assert found[3] is True
        assert found[7] is False

    def test_after_an_early_return(self) -> None:
        code = "import torch\ndef f():\n    if not torch.cuda.is_available():\n        return\n\n\n    torch.cuda.synchronize()\n"
        assert {hit.line: hit.guarded for hit in hits(code)}[7] is True

    def test_optional_import(self) -> None:
        code = "try:\n    import flash_attn\nexcept ImportError:\n    flash_attn = None\n"
        assert [(hit.kind, hit.guarded) for hit in hits(code)] == [("lib.import", True)]

    def test_plain_import_is_unguarded(self) -> None:
        assert [(hit.kind, hit.guarded) for hit in hits("import flash_attn\n")] == [("lib.import", False)]

    def test_what_follows_and_is_guarded(self) -> None:
        code = (
            "import torch\nok = is_npu_available() or (torch.cuda.is_available() and torch.cuda.is_bf16_supported())\n"
        )
        assert not [hit for hit in hits(code) if hit.kind == "branch.missing"]

    def test_a_branch_for_the_target_guards_the_other(self) -> None:
        code = (
            "if is_npu_available():\n    torch.npu.empty_cache()\nelse:\n    torch.cuda.empty_cache()\nimport torch\n"
        )
        assert all(hit.guarded for hit in hits(code) if hit.kind == "torch.cuda")


class TestMissingBranches:
    def test_chain_without_the_target(self) -> None:
        code = "import torch\nif device == 'cuda':\n    a()\nelif device == 'xpu':\n    b()\nelse:\n    c()\n"
        found = [hit for hit in hits(code) if hit.kind == "branch.missing"]
        assert (found[0].line, found[0].end_line) == (2, 7)
        assert "cuda" in found[0].symbol
        assert "xpu" in found[0].symbol

    def test_chain_with_the_target_is_complete(self) -> None:
        code = "if device == 'cuda':\n    a()\nelif device == 'npu':\n    b()\n"
        assert not [hit for hit in hits(code) if hit.kind.startswith("branch")]

    def test_the_same_chain_misses_another_target(self) -> None:
        code = "if device == 'cuda':\n    a()\nelif device == 'npu':\n    b()\n"
        assert next(hit.kind for hit in hits(code, target="cambricon/mlu590")) == "branch.missing"

    def test_predicates_and_their_import(self) -> None:
        code = "from acme.utils import (\n    is_bf16_available,\n    is_mps_available,\n    is_xpu_available,\n    wait,\n)\n"
        found = hits(code)
        assert [hit.kind for hit in found] == ["branch.import"]
        assert found[0].line == 3

    def test_enum_of_devices(self) -> None:
        code = "class Kind(Enum):\n    NO = 'NO'\n    MULTI_GPU = 'MULTI_GPU'\n    MULTI_XPU = 'MULTI_XPU'\n"
        assert [(hit.line, hit.kind) for hit in hits(code)] == [(3, "branch.list")]

    def test_list_and_table_of_devices(self) -> None:
        assert kinds("names = ('cuda', 'mps')\n") == [(1, "branch.list")]
        assert kinds("table = {'cuda': 1, 'cpu': 2}\n") == [(1, "branch.list")]
        assert kinds("table = {'cuda': 1, 'npu': 3, 'cpu': 2}\n") == []

    def test_function_that_answers_with_devices(self) -> None:
        code = "def kind():\n    if ask('nvidia-smi'):\n        return 'cuda'\n    if ask('ixsmi'):\n        return Kind.ROCM.value\n"
        assert (5, "branch.missing") in kinds(code)
        known = code + "    return 'npu'\n"
        assert "branch.missing" not in [kind for _, kind in kinds(known)]

    def test_exports_of_other_devices(self) -> None:
        assert kinds("__all__ = ['Device', 'DeviceGPU', 'DeviceTPU']\n") == [(1, "branch.import")]
        assert kinds("__all__ = ['Device', 'DeviceGPU', 'DeviceNPU']\n") == []
        assert kinds("__all__ = ['GPUReader']\n") == []

    def test_enum_of_firms(self) -> None:
        code = "class Vendor(str, Enum):\n    NVIDIA = 'NVIDIA'\n    AMD = 'AMD'\n    Apple = 'Apple'\n"
        assert kinds(code) == [(2, "branch.list")]
        assert kinds(code + "    Huawei = 'Huawei'\n") == []

    def test_text_that_lists_devices(self) -> None:
        found = hits("raise ValueError('known types are: cuda, musa, rocm')\n")
        assert [(hit.kind, hit.symbol) for hit in found] == [("text.mention", "list of cuda, musa, rocm")]
        assert hits("raise ValueError('known types are: cuda, musa, npu')\n") == []
        assert hits("print('an intelligent cudaish thing')\n") == []

    def test_imports_from_a_device_module(self) -> None:
        code = "import torch\nfrom .utils.device import get_device\n\ntorch.cuda.synchronize()\n"
        assert (2, "import from device") in [(hit.line, hit.symbol) for hit in hits(code)]
        assert hits("from .utils.device import get_device\n") == []

    def test_helper_module(self) -> None:
        code = "def is_cuda_available():\n    return True\n\n\ndef is_xpu_available():\n    return False\n"
        assert "branch.missing" in [hit.kind for hit in hits(code)]

    def test_method_that_moves_to_a_device(self) -> None:
        code = "class Batch:\n    def cuda(self):\n        return self.to('x')\n"
        assert [hit.kind for hit in hits(code)] == ["branch.missing"]

    def test_another_vendors_own_trait_is_no_missing_branch(self) -> None:
        assert kinds("if is_tpu_available():\n    tune()\n") == [(1, "branch.trait")]
        assert kinds("if is_rocm():\n    tune()\n") == []

    def test_a_branch_for_the_target_that_gives_up(self) -> None:
        assert kinds("def ok():\n    if is_npu_available():\n        return False\n    return True\n") == [
            (2, "branch.stub")
        ]


class TestTargets:
    def test_torch_cuda_is_no_obstacle_on_rocm(self) -> None:
        code = "import torch\ntorch.cuda.synchronize()\nx.cuda()\ntorch.distributed.init_process_group('nccl')\n"
        assert hits(code, target="amd/mi300x") == []

    def test_packages_still_are(self) -> None:
        assert kinds("import pynvml\n", target="amd/mi300x") == [(1, "lib.import")]


TRITON = """
import torch
import triton
import triton.language as tl
from triton.language.extra.cuda.libdevice import rsqrt

MAX_FUSED_SIZE = 65536


@triton.jit
def _kernel(X_ptr, Y_ptr, stride, n_cols, BLOCK_SIZE: tl.constexpr):
    row = tl.program_id(0)
    X_ptr += row * stride
    cols = tl.arange(0, BLOCK_SIZE)
    x = tl.load(X_ptr + cols, mask=cols < n_cols).to(tl.float64)
    tl.atomic_add(Y_ptr, tl.sum(x))
    y = tl.dot(x, x, allow_tf32=True)
    tl.inline_asm_elementwise("mov.u32 $0, $1;", "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1)


def forward(X):
    n_rows, n_cols = X.shape
    BLOCK_SIZE = triton.next_power_of_2(n_cols)
    _kernel[(n_rows,)](X, X, X.stride(0), n_cols, BLOCK_SIZE=BLOCK_SIZE, num_warps=8)
"""


class TestTriton:
    def reasons(self, target: str = "huawei/ascend-910b2") -> set[str]:
        found = scan(TRITON, target=target)
        return {name for hit in found.hits for name in (hit.kind, *hit.also)} | {hit.kind for hit in found.hits}

    @pytest.mark.parametrize(
        "reason",
        [
            "triton.libdevice",
            "triton.tile",
            "triton.pointer",
            "triton.dtype",
            "triton.atomic",
            "triton.tf32",
            "triton.asm",
            "triton.launch",
        ],
    )
    def test_reasons(self, reason: str) -> None:
        assert reason in self.reasons()

    def test_grid_and_options_of_the_launch(self) -> None:
        found = [hit for hit in scan(TRITON).hits if hit.line >= 23]
        said = " ".join(
            [hit.kind for hit in found] + [hit.symbol for hit in found] + [name for hit in found for name in hit.also]
        )
        assert "triton.grid" in said or "[grid]" in said
        assert "num_warps" in said

    def test_census(self) -> None:
        assert scan(TRITON).census == {"triton_kernels": 1}

    def test_compatible_stacks_compile_it(self) -> None:
        assert not [name for name in self.reasons("amd/mi300x") if name.startswith("triton")]
