"""Model architectures from Hugging Face config.json."""

from __future__ import annotations

from offramp.arch.count import Matrix, layer_matrices, part_dtypes
from offramp.arch.record import Attention, LayerGroup, Mlp, Model, Quantization

__all__ = ["Attention", "LayerGroup", "Matrix", "Mlp", "Model", "Quantization", "layer_matrices", "part_dtypes"]
