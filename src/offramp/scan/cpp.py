"""C, C++ and CUDA by a lexer of our own: comments and strings are masked, lines keep their numbers."""

from __future__ import annotations

import bisect
import re
from typing import Final, NamedTuple

import msgspec

from offramp.scan.finding import FileScan, Hit, Role, also_of
from offramp.scan.pyfile import line_starts
from offramp.scan.pyscan import merge_lines, snippets
from offramp.scan.siblings import definition_ends, sibling_hits
from offramp.scan.spoken import GPU_NAMES, knows, lines_of, spoken_names, spoken_text
from offramp.scan.symbols import needed
from offramp.scan.target import Target
from offramp.scan.words import ALL_WORDS, CUDA_WORDS, PEERS, words_of

TRIGGER: Final = re.compile(
    r"[Cc]uda|CUDA|[Nn]ccl|NCCL|cublas|cudnn|cufile|nvml|nvtx|nvrtc|nvshmem|nvlink|__global__|__device__|USE_|ENABLE_|WITH_|kCUDA|gpu|GPU|HIP|ROCM|mma|[Vv]ulkan|VULKAN|opencl|OPENCL|neuron|NEURON|musa|mlu|hpu|npu"
)
_MASK: Final = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'", re.DOTALL)
_INCLUDE: Final = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"\n]+)[>\"]", re.MULTILINE)
_CUDA_INCLUDE: Final = re.compile(
    r"(?:^|/)(?:cuda|nccl|cublas|cudnn|cufft|curand|cusparse|cusolver|cufile|nvml|nvtx|nvrtc|nvshmem|cub/|thrust/|cutlass|cute/|cooperative_groups|mma\.h)"
)
_API: Final = re.compile(
    r"\b(?:cuda[A-Z]\w*|cu(?:Mem|Launch|Module|Ctx|Device|Stream|Event|Func|Init|Graph|TensorMap|Get|Pointer)[A-Z]?\w*|CU(?:deviceptr|stream|context"
    r"|device|result|memGenericAllocationHandle)|nccl[A-Z]\w*|cublas\w+|cudnn\w+|cufft\w+|curand\w+|cusparse\w+|cusolver\w+|nvrtc\w+|nvml[A-Z]\w*"
    r"|nvtx\w+|cuFile\w+|nvshmem\w+|c10::cuda|at::cuda|torch::kCUDA|at::kCUDA|kCUDA|kDLCUDA|CUDAGuard|OptionalCUDAGuard|CUDAStream|"
    r"getCurrentCUDAStream|AT_CUDA_CHECK|C10_CUDA_CHECK|TORCH_CUDA_CHECK|DeviceType::CUDA|is_cuda)\b"
)
_DEVICE: Final = (
    ("ptx", re.compile(r"\basm\s*(?:volatile)?\s*(?:\(|\{)")),
    (
        "mma",
        re.compile(
            r"\b(?:wmma::|mma_sync|ldmatrix|wgmma|tcgen05|cp_async\w*|cuTensorMap\w*|CUtensorMap|MMA_\w+|GMMA)\b"
        ),
    ),
    (
        "warp",
        re.compile(r"\b__(?:shfl\w*|ballot\w*|any_sync|all_sync|activemask|syncwarp|match_\w+|reduce_\w+_sync)\b"),
    ),
)
_KERNEL: Final = re.compile(r"\b__global__\b")
_ON_DEVICE: Final = re.compile(
    r"\b(?:__device__|__forceinline__|__shared__|__constant__|__launch_bounds__|__syncthreads|__threadfence\w*|__ldg|"
    r"threadIdx|blockIdx|blockDim|gridDim)\b"
)
_LAUNCH: Final = re.compile(r"<<<")
_IF: Final = re.compile(r"^[ \t]*#[ \t]*(if|ifdef|ifndef|elif|else|endif)\b([^\n]*(?:\\\n[^\n]*)*)", re.MULTILINE)
_CHOICE: Final = re.compile(r"(?:==|equals?\(|compare\()\s*\"([\w-]+)\"|\"([\w-]+)\"\s*==")
TRANSPORTS: Final = frozenset(
    {
        "nvlink",
        "mnnvl",
        "nvmeof",
        "rdma",
        "tcp",
        "cxl",
        "gdr",
        "gds",
        "cufile",
        "efa",
        "ucx",
        "shm",
        "infiniband",
        "ib",
        "nccl",
        "gpudirect",
    }
)
_DEVICE_WORDS: Final = ALL_WORDS | {"mnnvl", "nvlink", "nvmeof", "gds", "cufile", "gdr", "efa"}
NEAR: Final = 4
SHORT: Final = 6
"""Preprocessor blocks up to this many lines are one place; longer ones have two, the head and the end."""


class Source(NamedTuple):
    """A C or C++ file: text, text with comments and strings blanked, offsets of lines."""

    path: str
    text: str
    masked: str
    starts: list[int]

    def line(self, offset: int) -> int:
        """1-based line of an offset."""
        return bisect.bisect_right(self.starts, offset)


def mask(text: str) -> str:
    """The text with comments and the inside of strings replaced by blanks, newlines kept."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match.group())

    return _MASK.sub(blank, text)


def scan_cpp(path: str, text: str, *, role: Role, target: Target) -> FileScan:
    """What one C, C++ or CUDA file holds."""
    lines = text.count("\n") + 1
    is_cuda = path.endswith((".cu", ".cuh"))
    if not is_cuda and not TRIGGER.search(text):
        return FileScan(path=path, kind="cpp", role=role, lines=lines)
    source = Source(path, text, mask(text), line_starts(text))
    census = _census(source, is_cuda=is_cuda)
    hits, guards = _preprocessor(source, target)
    if is_cuda:
        hits = []  # the file as a whole is written anew
    else:
        hits += _includes(source, guards)
    hits += _kernels(source, guards, is_cuda=is_cuda)
    if not is_cuda:
        hits += _calls(source, guards)
        hits += _choices(source, target)
        hits += _strings(source, guards, target)
        hits += _members(source, target) + _enumerators(source, target)
        taken = lines_of((hit.line, hit.end_line) for hit in hits)
        hits += sibling_hits(path, text, target=target, taken=taken)
        hits += definition_ends(source.masked, target=target)
        hits += _mentions(source, hits, guards, words=target.words)
    hits = [hit for hit in merge_near(merge_lines(hits)) if needed(hit.kind, target, python=False)]
    return FileScan(
        path=path, kind="cuda" if is_cuda else "cpp", role=role, lines=lines, hits=tuple(hits),
        snippets=snippets(text, hits), census=census,
    )  # fmt: skip


def _mentions(source: Source, hits: list[Hit], guards: list[tuple[int, int]], *, words: frozenset[str]) -> list[Hit]:
    """Names after CUDA; where a file has other findings also names after GPUs, messages and comments."""
    taken = lines_of((hit.line, hit.end_line) for hit in hits)
    raw, code = source.text.split("\n"), source.masked.split("\n")
    found: list[Hit] = []
    others: list[Hit] = []
    for number, (line, bare) in enumerate(zip(raw, code, strict=True), start=1):
        if number in taken or not _SAID.search(line) or knows(line, words):
            continue
        named = spoken_names(bare)
        said = named or spoken_text(line)
        if said:
            hit = _hit(number, said.kind, said.symbol, guards)
            hit = msgspec.structs.replace(hit, also=said.also)
            (found if named and named.symbol != GPU_NAMES else others).append(hit)
    return found + others if hits or found or len(others) >= SPEAKS else []


_SAID: Final = re.compile(r"cuda|nccl|gpu|nvidia", re.IGNORECASE)
SPEAKS: Final = 1
"""Lines on GPUs from which a C or C++ file without a CUDA call counts as written for them."""


def _census(source: Source, *, is_cuda: bool) -> dict[str, int]:
    counts = {name: len(pattern.findall(source.masked)) for name, pattern in _DEVICE}
    counts["kernels"] = len(_KERNEL.findall(source.masked))
    counts["launches"] = len(_LAUNCH.findall(source.masked))
    if is_cuda:
        counts["cuda_files"] = 1
        counts["cuda_lines"] = source.text.count("\n") + 1
    libraries = {
        match.group()[:5]
        for match in re.finditer(r"\b(?:cublas|cudnn|cufft|curand|cusparse|cusolver)\w+", source.masked)
    }
    counts["libraries"] = len(libraries)
    return {name: count for name, count in counts.items() if count}


def _words(text: str) -> frozenset[str]:
    text = re.sub(r"\bCUDA_VERSION\b|\b\w+_(?:H|HPP|CUH)_*\b", " ", text)  # include guards
    text = re.sub(r"\b__(?:CUDACC|NVCC)\w*__\b", "cuda", re.sub(r"\b__HIPCC__\b", "hip", text))
    return frozenset(word for name in re.findall(r"\w+", text) for word in words_of(name)) & _DEVICE_WORDS


def _preprocessor(source: Source, target: Target) -> tuple[list[Hit], list[tuple[int, int]]]:
    """Device conditionals without the target, and the line ranges that they guard."""
    hits: list[Hit] = []
    guards: list[tuple[int, int]] = []
    stack: list[tuple[list[int], frozenset[str]]] = []
    for match in _IF.finditer(source.masked):
        word, rest = match.group(1), match.group(2)
        line = source.line(match.start(1))
        if word in ("if", "ifdef", "ifndef"):
            stack.append(([line], _words(rest)))
        elif not stack:
            continue
        elif word in ("elif", "else"):
            spots, words = stack[-1]
            stack[-1] = ([*spots, line], words | _words(rest))
        else:
            spots, words = stack.pop()
            if not words:
                continue
            guards.append((spots[0], line))
            if not _knows(target, words) and _joins(words):
                hits += _conditional(spots, line, words)
    return hits, guards


def _joins(words: frozenset[str]) -> bool:
    return bool(words & (CUDA_WORDS | TRANSPORTS | {"gpu", "mnnvl"} | PEERS)) or len(words) >= 2


def _knows(target: Target, words: frozenset[str]) -> bool:
    return bool(words & target.native_words) or (target.torch_cuda_api and bool(words & {"hip", "rocm"}))


def _conditional(spots: list[int], end: int, words: frozenset[str]) -> list[Hit]:
    symbol = "#if " + "/".join(sorted(words))
    if end - spots[0] <= SHORT:
        return [Hit(line=spots[0], end_line=end, column=0, kind="branch.missing", symbol=symbol)]
    places = [*spots, end]
    return [
        Hit(
            line=line, end_line=line, column=0, kind="branch.missing", symbol=symbol, note=note, related=(spots[0], end)
        )
        for line, note in [(places[0], "head"), *[(line, "branch") for line in places[1:-1]], (places[-1], "end")]
    ]


def _is_guarded(line: int, guards: list[tuple[int, int]]) -> bool:
    return any(first < line < last for first, last in guards)


def _includes(source: Source, guards: list[tuple[int, int]]) -> list[Hit]:
    hits: list[Hit] = []
    for match in _INCLUDE.finditer(source.text):
        if _CUDA_INCLUDE.search(match.group(1)) or "/cuda/" in match.group(1):
            line = source.line(match.start(1))
            hits.append(_hit(line, "cpp.include", match.group(1), guards))
    return hits


def _kernels(source: Source, guards: list[tuple[int, int]], *, is_cuda: bool) -> list[Hit]:
    """Device code: one hit a .cu file with its census, one hit a kernel elsewhere."""
    starts = [match.start() for match in _KERNEL.finditer(source.masked)]
    features = sorted((match.start(), label) for label, pattern in _DEVICE for match in pattern.finditer(source.masked))
    names = [_kernel_name(source.masked, at) for at in starts]
    labels = [label for _, label in features]
    uses = ", ".join(f"{labels.count(label)} {_USES[label]}" for label in dict.fromkeys(labels))
    if is_cuda:
        what = (
            f"{len(starts)} kernels ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            if starts
            else "CUDA source"
        )
        lines = source.text.count("\n") + 1
        hint = "L4" if "ptx" in labels else "L3" if starts or labels else "L2"
        note = f"{lines} lines" + (f", {uses}" if uses else "")
        whole = _hit(1, "cuda.source", what, [], note=note, hint=hint)
        return [msgspec.structs.replace(whole, end_line=lines)]
    hits = [
        _hit(source.line(at), "cuda.source", f"kernel {name}", guards) for at, name in zip(starts, names, strict=True)
    ]
    for spot, label in features:
        hits.append(_hit(source.line(spot), "cuda.source", _USES[label], guards, hint="L4" if label == "ptx" else "L3"))
    hits += [
        _hit(source.line(match.start()), "cuda.source", "device code", guards)
        for match in _ON_DEVICE.finditer(source.masked)
    ]
    return hits


_USES: Final = {"ptx": "inline PTX", "mma": "matrix instructions", "warp": "warp intrinsics"}


def _kernel_name(masked: str, at: int) -> str:
    head = re.sub(r"__launch_bounds__\s*\([^)]*\)", "", masked[at + 10 : at + 400])
    name = re.search(r"\b(\w+)\s*\(", head)
    return name.group(1) if name else "?"


_JOINED: Final = frozenset({"cpp", "env", "infra", "build", "monitor", "cuda"})


def _family(kind: str) -> str:
    return kind.split(".")[0]


def merge_near(hits: list[Hit]) -> list[Hit]:
    """Joins runs of lines of one family, a few lines apart, into one place with its span."""
    merged: list[Hit] = []
    for hit in hits:
        last = merged[-1] if merged else None
        joins = last is not None and last.guarded == hit.guarded and _family(hit.kind) == _family(last.kind) in _JOINED
        if last is not None and joins and hit.line - last.end_line <= NEAR and hit.line - last.line <= 40:
            also, also_lines = also_of(last, [hit])
            merged[-1] = msgspec.structs.replace(
                last, end_line=max(last.end_line, hit.end_line), also=also, also_lines=also_lines
            )
        else:
            merged.append(hit)
    return merged


def _calls(source: Source, guards: list[tuple[int, int]]) -> list[Hit]:
    hits: list[Hit] = []
    for match in _API.finditer(source.masked):
        name = match.group()
        low = name.lower()
        kind = (
            "cpp.nccl"
            if low.startswith("nccl")
            else "cpp.library"
            if low.startswith(("cublas", "cudnn", "cufft", "curand", "cusparse", "cusolver"))
            else "cpp.runtime"
        )
        hits.append(_hit(source.line(match.start()), kind, name, guards))
    return hits


def _hit(line: int, kind: str, symbol: str, guards: list[tuple[int, int]], *, note: str = "", hint: str = "") -> Hit:
    return Hit(
        line=line,
        end_line=line,
        column=0,
        kind=kind,
        symbol=symbol,
        guarded=_is_guarded(line, guards),
        note=note,
        hint=hint,
    )


def _choices(source: Source, target: Target) -> list[Hit]:
    """Chains that compare a device or transport name with strings and leave the target out."""
    found: list[tuple[int, str]] = []
    for number, text in enumerate(source.text.split("\n"), start=1):
        if '"' not in text or ("==" not in text and "compare" not in text):
            continue
        for match in _CHOICE.finditer(text):
            name = (match.group(1) or match.group(2)).lower()
            if name in TRANSPORTS or name in _DEVICE_WORDS:
                found.append((number, name))
    hits: list[Hit] = []
    group: list[tuple[int, str]] = []
    for item in [*found, (10**9, "")]:
        if group and item[0] - group[-1][0] > 60:
            found_hits = _choice_group(group, target)
            hits += found_hits
            end = _else_after(source, group[-1][0]) if found_hits else 0
            if end:
                hits.append(msgspec.structs.replace(found_hits[-1], line=end, end_line=end, note="else of the chain"))
            group = []
        group.append(item)
    return hits


_TORCH: Final = re.compile(r"#\s*include\s*[<\"](?:torch|ATen|c10)/|\b(?:torch|at|c10)::")
_DEVICE_STRING: Final = re.compile(r"\"[^\"\n]*\bcuda:(?:\d|\"|\\)[^\"\n]*\"?|\"cuda\"")


def _strings(source: Source, guards: list[tuple[int, int]], target: Target) -> list[Hit]:
    """Device names in string literals ("cuda:"); only torch's C++ answers to CUDA's name on other stacks."""
    kind = "branch.list" if target.torch_cuda_api and not _TORCH.search(source.text) else "device.string"
    return [
        _hit(source.line(match.start()), kind, match.group()[:30], guards)
        for match in _DEVICE_STRING.finditer(source.text)
    ]


_MEMBER: Final = re.compile(
    r"^[ \t]*+(?:\}[ \t]*+|[\w:<>,*& \t]{1,160}[ \t>*&])(\w{1,39})[ \t]*+(?:=[^;\n]{0,200})?;", re.MULTILINE
)


def _members(source: Source, target: Target) -> list[Hit]:
    """Structs and unions with a member per transport that leave the target's out."""
    if not source.path.endswith((".h", ".hpp", ".hh")):
        return []
    named: list[tuple[int, frozenset[str]]] = []
    for match in _MEMBER.finditer(source.masked):
        words = words_of(match.group(1)) & (TRANSPORTS | CUDA_WORDS)
        if words and len(match.group(1)) < 40:
            named.append((source.line(match.start(1)), words))
    hits: list[Hit] = []
    group: list[tuple[int, frozenset[str]]] = []
    for item in [*named, (10**9, frozenset[str]())]:
        if group and item[0] - group[-1][0] > 25:
            words = frozenset[str]().union(*(found for _, found in group))
            if len(words) >= 2 and not words & target.native_words:
                symbol = "members for " + "/".join(sorted(words))
                hits.append(
                    Hit(
                        line=group[-1][0],
                        end_line=group[-1][0] + 1,
                        column=0,
                        kind="branch.list",
                        symbol=symbol,
                        related=(group[0][0],),
                    )
                )
            group = []
        group.append(item)
    return hits


_ENUMERATOR: Final = re.compile(r"(?:^|,)\s*(\w+)")


def _enumerators(source: Source, target: Target) -> list[Hit]:
    """Enums with a member per kind of device that leave the target's out."""
    hits: list[Hit] = []
    for block in _ENUM.finditer(source.masked):
        named = [
            (match.start(1), words_of(match.group(1)) & ALL_WORDS) for match in _ENUMERATOR.finditer(block.group(1))
        ]
        named = [(at, words) for at, words in named if words]
        words = frozenset[str]().union(*(found for _, found in named)) - {"gpu"}
        if len(words) < 2 or words & target.native_words:
            continue
        lines = [source.line(block.start(1) + at) for at, _ in named]
        symbol = "members for " + "/".join(sorted(words))
        hits.append(Hit(line=lines[-1], end_line=lines[-1] + 1, column=0, kind="branch.list", symbol=symbol,
                        related=(lines[0],)))  # fmt: skip
    return hits


_ENUM: Final = re.compile(r"\benum\b[^;{}]*\{([^{}]*)\}")


def _else_after(source: Source, line: int) -> int:
    """The line of the else that closes a chain; 0 when there is none near."""
    lines = source.text.split("\n")
    depth = len(lines[line - 1]) - len(lines[line - 1].lstrip())
    for number in range(line + 1, min(line + 60, len(lines)) + 1):
        text = lines[number - 1]
        if text.strip().startswith(("else", "} else")) and len(text) - len(text.lstrip()) == depth:
            return number
    return 0


def _choice_group(group: list[tuple[int, str]], target: Target) -> list[Hit]:
    names = {name for _, name in group}
    if names & target.native_words or (len(names) < 2 and not names & (CUDA_WORDS | {"gpu"})):
        return []
    symbol = "choice of " + "/".join(sorted(names))
    last = group[-1][0]
    return [
        Hit(
            line=line,
            end_line=line,
            column=0,
            kind="branch.missing",
            symbol=symbol,
            note="string chain",
            related=(group[0][0], last),
        )
        for line in sorted({line for line, _ in group})
    ]
