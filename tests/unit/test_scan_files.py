"""C++, CUDA, infrastructure and configuration files."""

from __future__ import annotations

import textwrap

import pytest

from offramp.scan.engine import scan_item
from offramp.scan.finding import Hit
from offramp.scan.target import load_target
from offramp.scan.tree import Item, kind_of_path, role_of

ASCEND = load_target("huawei/ascend-910b2")


def hits(path: str, text: str) -> list[Hit]:
    text = textwrap.dedent(text)
    kind = kind_of_path(path)
    found = scan_item(Item(path, kind, role_of(path, kind), len(text)), text, target=ASCEND)
    assert not found.notes, found.notes
    return list(found.hits)


@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        ("Dockerfile", "FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\n", "infra.docker"),
        ("docker/Dockerfile.gpu", "FROM nvcr.io/nvidia/pytorch:24.05-py3\n", "infra.docker"),
        ("run.sh", "docker run --gpus all image\n", "infra.docker"),
        ("docker-compose.yml", "deploy:\n  resources:\n    reservations:\n      devices:\n        - driver: nvidia\n", "infra.docker"),
        ("k8s/pod.yaml", "resources:\n  limits:\n    nvidia.com/gpu: 8\n", "infra.k8s"),
        ("chart/values.yaml", "runtimeClassName: nvidia\n", "infra.k8s"),
        ("chart/templates/d.yaml", "{{- if .Values.gpu }}\n  nvidia.com/gpu: {{ .Values.gpu }}\n{{- end }}\n", "infra.k8s"),
        ("job.slurm", "#SBATCH --gres=gpu:8\n", "infra.slurm"),
        (".github/workflows/t.yml", "jobs:\n  t:\n    runs-on: [self-hosted, gpu-a100]\n", "infra.ci"),
        ("requirements.txt", "flash-attn==2.6.3\n", "infra.deps"),
        ("requirements/gpu.txt", "cupy-cuda12x\n", "infra.deps"),
        ("install.sh", "pip install torch==2.5.1+cu124\n", "infra.deps"),
        ("pyproject.toml", '[project]\ndependencies = [\n  "bitsandbytes>=0.43",\n]\n', "infra.deps"),
        ("launch.sh", "export NCCL_SOCKET_IFNAME=eth0\n", "env"),
        ("launch.sh", "CUDA_VISIBLE_DEVICES=0,1 python run.py\n", "env"),
        ("mon.sh", "nvidia-smi --query-gpu=name\n", "monitor"),
        ("CMakeLists.txt", "find_package(CUDAToolkit REQUIRED)\n", "build.cmake"),
        ("CMakeLists.txt", "option(USE_CUDA \"gpu\" ON)\n", "branch.list"),
        ("conf/a.yaml", "device: cuda\n", "device.string"),
        ("conf/a.yaml", "dist_backend: nccl\n", "dist.backend"),
        ("conf/model.json", '{\n "attn_implementation": "flash_attention_2"\n}\n', "lib.option"),
        ("conf/serve.yaml", "kv_cache_dtype: fp8\n", "config.serving"),
        ("build.sh", "export TORCH_CUDA_ARCH_LIST=9.0\n", "build.arch"),
        ("a.cpp", "#include <cuda_runtime.h>\n", "cpp.include"),
        ("a.cpp", "void f() { cudaMalloc(&p, n); }\n", "cpp.runtime"),
        ("a.cpp", "void f() { ncclAllReduce(a, b, c, d, e, f, s); }\n", "cpp.nccl"),
        ("a.cpp", "void f() { cublasGemmEx(h); }\n", "cpp.library"),
        ("a.cc", "#ifdef USE_CUDA\nint x;\n#endif\n", "branch.missing"),
        ("a.cpp", 'std::string name = "cuda:0";\n', "device.string"),
        ("a.h", "enum Kind {  // cuda first\n  CPU,\n  CUDA_RUNTIME,\n  XPU_RUNTIME,\n};\n", "branch.list"),
        ("CMakeLists.txt", "  $<$<BOOL:${USE_MLU}>:torch_mlu>\n", "branch.missing"),
        ("k.cu", "__global__ void add(float* a) { a[0] = 1; }\n", "cuda.source"),
    ],
)  # fmt: skip
def test_finds(path: str, text: str, kind: str) -> None:
    assert kind in [hit.kind for hit in hits(path, text)]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("Dockerfile", "FROM python:3.12-slim\n# FROM nvidia/cuda\n"),
        ("a.cpp", '// cudaMalloc(&p, n)\n/* ncclAllReduce */\nconst char* s = "cudaMalloc";\n'),
        ("a.cc", "#if defined(USE_CUDA) || defined(USE_NPU)\nint x;\n#endif\n"),
        ("a.h", "#ifndef __HIP_PLATFORM_AMD__\nint x;\n#endif\n"),
        ("a.yaml", "# device: cuda\nname: occupy\n"),
        ("requirements.txt", "requests\nflask>=2\n"),
        ("conf/a.yaml", "device: cpu\nbackend: gloo\n"),
    ],
)
def test_leaves_alone(path: str, text: str) -> None:
    assert hits(path, text) == []


def test_census_of_a_cuda_file_says_what_is_in_it() -> None:
    code = """
    __global__ void __launch_bounds__(256) a(float* x) { asm volatile("mov;"); __shfl_sync(1, 2, 3); }
    __global__ void b(float* x) { }
    """
    found = hits("k.cu", code)
    assert len(found) == 1
    assert found[0].symbol == "2 kernels (a, b)"
    assert "inline PTX" in found[0].note
    assert found[0].hint == "L4"


def test_long_preprocessor_block_has_a_head_and_an_end() -> None:
    code = "#ifdef USE_CUDA\n" + "int x;\n" * 20 + "#endif\n"
    assert [hit.line for hit in hits("a.cpp", code)] == [1, 22]


def test_calls_inside_a_device_conditional_are_guarded() -> None:
    code = (
        "#ifdef USE_CUDA\n" + "int x;\n" * 8 + "cudaFree(p);\n" + "int y;\n" * 8 + "#endif\n\n\n\n\n\n\ncudaFree(q);\n"
    )
    found = {hit.line: hit.guarded for hit in hits("a.cpp", code) if hit.kind == "cpp.runtime"}
    assert found == {10: True, 26: False}


def test_neighbouring_calls_are_one_place() -> None:
    code = "void f() {\n  cudaMalloc(&a, n);\n  cudaMalloc(&b, n);\n  cudaMemcpy(a, b, n, k);\n}\n"
    found = hits("a.cpp", code)
    assert [(hit.line, hit.end_line) for hit in found] == [(2, 4)]


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("src/a.py", "source"), ("tests/test_a.py", "test"), ("examples/a.py", "example"), ("third_party/x/a.py", "vendored"),
        ("docs/conf.py", "doc"), ("benchmarks/b.py", "benchmark"), ("setup.py", "build"), ("docker/Dockerfile", "infra"),
    ],
)  # fmt: skip
def test_roles(path: str, role: str) -> None:
    assert role_of(path, kind_of_path(path)) == role


def test_rocm_needs_its_own_branch_in_cpp_and_cmake() -> None:
    """PyTorch on ROCm answers to CUDA's names; C++ behind a CUDA switch does not build there by itself."""
    for path, text in (("a.h", "#if USE_CUDA\nint x;\n#endif\n"), ("CMakeLists.txt", "if(USE_CUDA)\n  f()\nendif()\n")):
        item = Item(path, kind_of_path(path), "source", len(text))
        for chip, known in (("amd/mi300x", False), ("metax/c500", True)):
            found = scan_item(item, text, target=load_target(chip)).hits
            assert ("branch.missing" in [hit.kind for hit in found]) is not known, (path, chip)
