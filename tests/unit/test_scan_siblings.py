"""Back ends beside each other, device code in headers, and what differs where a stack answers to torch.cuda."""

from __future__ import annotations

import textwrap
import time

import pytest

from offramp.scan.engine import scan_item
from offramp.scan.finding import Hit
from offramp.scan.target import load_target
from offramp.scan.tree import Item, kind_of_path, role_of


def hits(path: str, text: str, *, target: str = "cambricon/mlu590") -> list[Hit]:
    text = textwrap.dedent(text)
    kind = kind_of_path(path)
    return list(scan_item(Item(path, kind, role_of(path, kind), len(text)), text, target=load_target(target)).hits)


def covers(found: list[Hit], line: int, kind: str = "") -> bool:
    return any(hit.line <= line <= hit.end_line and (not kind or hit.kind == kind) for hit in found)


OPTIONS = """\
    static struct option options[] = {
        { "use_cuda", 1, &use_cuda_flag },
        { "use_rocm", 1, &use_rocm_flag },
        { "use_neuron", 1, &use_neuron_flag },
        { "mmap", 1, &mmap_flag },
    };
    """


def test_a_list_of_back_ends_in_c_is_where_the_next_one_joins() -> None:
    assert covers(hits("src/params.c", OPTIONS), 4, "branch.list")


def test_a_list_that_holds_the_target_is_ported() -> None:
    assert not covers(hits("src/params.c", OPTIONS, target="aws/trainium2"), 4, "branch.list")


def test_a_file_of_one_back_end_is_left_alone() -> None:
    assert not any(hit.note == "back ends" for hit in hits("src/rocm_memory.c", OPTIONS))


def test_a_file_with_one_kind_only_is_left_alone() -> None:
    text = "int use_vulkan_flag;\nint vulkan_version;\n"
    assert not any(hit.note == "back ends" for hit in hits("src/params.c", text))


@pytest.mark.parametrize(
    ("path", "text", "line"),
    [
        ("Makefile.am", "if CUDA\nS += cuda.c\nendif\nif ROCM\nS += src/rocm_memory.c\nendif\n", 5),
        ("configure.ac", "AM_CONDITIONAL([CUDA], [x])\n\n\nAM_CONDITIONAL([NEURON], [y])\n", 4),
        ("core/devices/CMakeLists.txt", "add_subdirectory(omp)\nadd_subdirectory(cuda)\n", 2),
        ("CMakeLists.txt", "function(make_cuda_test name)\n  add_test(${name})\nendfunction()\n", 3),
        ("build.sh", 'LIBS="core omp cuda"\n', 1),
    ],
)
def test_build_files(path: str, text: str, line: int) -> None:
    assert covers(hits(path, text), line)


def test_the_end_of_a_class_named_after_cuda_is_a_place() -> None:
    text = "class CudaExecutor : public Executor {\n  void run() { go(); }\n};\nclass Other {\n};\n"
    found = [hit.line for hit in hits("executor.hpp", text) if hit.symbol == "beside class CudaExecutor"]
    assert found == [3]


def test_device_code_in_a_header() -> None:
    text = "#pragma once\n#ifdef __CUDACC__\n\n\n\n\n\n__device__ void put(int* p) { __syncthreads(); }\n#endif  // x\n"
    found = hits("channel.hpp", text, target="amd/mi300x")
    assert covers(found, 2, "branch.missing")
    assert covers(found, 8, "cuda.source")
    assert covers(found, 9)


AMD = "amd/mi300x"


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import torch\nv = torch.version.cuda.split('.')\n", 2),
        ("import torch\nok = torch.cuda.get_device_capability()[0] >= 8\n", 2),
        ("import torch\nif torch.cuda.is_available():\n    from .cuda import *\n", 2),
        ("import torch\nif torch.cuda.is_available():\n    import bitsandbytes as bnb\n", 2),
        ("import torch\nif DEVICE_TYPE == 'cuda':\n    a()\nelif DEVICE_TYPE == 'xpu':\n    b()\n", 2),
        (
            "import torch\ngood = (\n    x.device.type == 'cuda'\n    and torch.cuda.get_device_capability()[0] >= 8\n)\n",
            3,
        ),
        ("from torch.utils.cpp_extension import CUDAExtension\nargs = installed_cuda_version()\n", 2),
    ],
)
def test_what_cuda_alone_has_is_found_where_torch_cuda_answers(code: str, line: int) -> None:
    assert covers(hits("acme/run.py", code, target=AMD), line)


@pytest.mark.parametrize(
    "code",
    [
        "import torch\nif torch.cuda.is_available():\n    torch.cuda.synchronize()\n",
        "import torch\nx = model.to('cuda')\n",
        "import torch\ndevice = 'cuda' if torch.cuda.is_available() else 'cpu'\n",
    ],
)
def test_what_answers_to_cuda_is_no_obstacle_there(code: str) -> None:
    assert hits("acme/run.py", code, target=AMD) == []


def test_a_family_of_functions_by_vendor() -> None:
    code = "def detect_cuda():\n    return 1\n\n\ndef detect_xpu():\n    return 2\n\n\ndef other():\n    return 3\n"
    found = [(hit.line, hit.symbol) for hit in hits("acme/run.py", code, target="huawei/ascend-910b2")]
    assert (6, "detect_* for cuda/xpu") in found


def test_a_family_that_has_the_target_is_ported() -> None:
    code = "def detect_cuda():\n    return 1\n\n\ndef detect_npu():\n    return 2\n"
    found = hits("acme/run.py", code, target="huawei/ascend-910b2")
    assert not any(hit.note == "family" for hit in found)


def test_imports_that_gather_back_ends() -> None:
    code = "from .cuda_ops import CudaOps\nfrom .maca_ops import MacaOps\nfrom .xla_ops import XLAOps\n\nx = CudaOps\n"
    found = hits("acme/ops/__init__.py", code, target="huawei/ascend-910b2")
    assert covers(found, 2, "branch.import")
    assert covers(found, 3, "branch.import")
    ported = "from .npu_ops import NpuOps\n" + code
    assert not any(hit.note == "siblings" for hit in hits("acme/ops/__init__.py", ported, target="huawei/ascend-910b2"))


def test_tables_made_with_dict() -> None:
    code = "MAPS = dict(ascend=A, maca=M)\n"
    assert covers(hits("acme/run.py", code, target="cambricon/mlu590"), 1, "branch.list")
    assert not covers(hits("acme/run.py", code, target="huawei/ascend-910b2"), 1, "branch.list")


def test_the_host_against_cuda() -> None:
    code = "import torch\nif DEVICE != 'cpu':\n    torch.cuda.synchronize()\nif DEVICE != 'cpu':\n    step()\n"
    found = [(hit.line, hit.symbol) for hit in hits("acme/run.py", code)]
    assert (2, "the host against CUDA") in found
    assert (4, "the host against CUDA") not in found


def test_cuda_graphs_are_no_device() -> None:
    code = "if args.use_cuda_graph:\n    capture()\nif args.use_cuda and args.use_cuda_graph:\n    run()\n"
    found = [(hit.line, hit.kind, hit.symbol) for hit in hits("acme/run.py", code)]
    assert (1, "torch.stream", "CUDA graphs") in found
    assert (3, "branch.missing", "if cuda") in found


def test_predicates_sort_apart_from_constants_and_classes() -> None:
    code = """\
        from .utils import (
            MODEL_NAME,
            DeepSpeedPlugin,
            gather,
            is_megatron_available,
            is_safetensors_available,
            is_tpu_available,
            is_xpu_available,
        )
        """
    found = [(hit.line, hit.end_line) for hit in hits("acme/run.py", code, target="huawei/ascend-910b2")]
    assert (5, 6) in found


@pytest.mark.parametrize(
    "text",
    [
        "// cuda\n" + (" " * 2_000 + "\n") * 400,
        "// cuda\n" + "class Cuda " * 20_000,
        "// cuda\n" + "class CudaX {\n" * 20_000,
        "// cuda rocm\n" + "int rocm_a, xpu_b;\n" * 20_000,
        "// cuda\nstruct S { std::map<int, int> " + "a " * 50_000,
    ],
)
def test_hostile_headers_take_linear_time(text: str) -> None:
    start = time.process_time()
    hits("a.h", text)
    assert time.process_time() - start < 5.0
