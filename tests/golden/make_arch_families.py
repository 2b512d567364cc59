"""Writes arch_families.json: for each model type, a configuration and the weights that its modelling code builds.

Run where torch and transformers are installed (they are no dependency of offramp): it builds every listed model of
transformers from its default configuration on the meta device and counts parameters.

    python tests/golden/make_arch_families.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def count(config: Any) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    target = Path(__file__).with_name("arch_families.json")
    known = json.loads(target.read_text(encoding="utf-8"))
    for model_type in known:
        config = CONFIG_MAPPING[model_type]()
        plain = json.loads(config.to_json_string(use_diff=False))
        kept = {key: value for key, value in plain.items() if key in known[model_type]["config"]}
        known[model_type] = {"config": {**known[model_type]["config"], **kept}, "parameters": count(config)}
    lines = ",\n".join(
        f"  {json.dumps(key)}: {json.dumps(value, sort_keys=True)}" for key, value in sorted(known.items())
    )
    target.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
