"""Model architectures from Hugging Face config.json.

:func:`load` is the one way in; the records say what a model is made of, and :func:`layer_matrices` lists the GEMMs that
the parameter counts and the cost model share.
"""

from __future__ import annotations

from offramp.arch.config import parse_config
from offramp.arch.count import Matrix, layer_matrices, mixer_matrices, mlp_matrices, part_dtypes, state_bytes
from offramp.arch.load import Alias, Preset, load, preset, presets, resolve_alias
from offramp.arch.record import Attention, LayerGroup, Mlp, Model, Quantization

__all__ = [
    "Alias", "Attention", "LayerGroup", "Matrix", "Mlp", "Model", "Preset", "Quantization", "layer_matrices", "load",
    "mixer_matrices", "mlp_matrices", "parse_config", "part_dtypes", "preset", "presets", "resolve_alias",
    "state_bytes",
]  # fmt: skip
