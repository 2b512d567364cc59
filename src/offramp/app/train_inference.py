"""The inference exchange rate beside the training one: same pair of chips, same model, joint draws of the cost model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offramp.app.cells import load_parameters
from offramp.app.study import Study, Synthetic, Workload
from offramp.app.study_settings import SloKey
from offramp.app.train_cells import Setting, quantiles
from offramp.app.workload import load_model, load_trace, requests_of
from offramp.arch.record import Model
from offramp.catalog import Chip
from offramp.core.errors import OfframpError
from offramp.core.seeds import derive_seed
from offramp.search import Limits, Question, Stream, find, mix_of
from offramp.train.assumed import constant

F8 = npt.NDArray[np.float64]
PRESET: Final = "azure-2023-chat"
REQUESTS: Final = 400
CHUNKS: Final = (2048, 8192)
"""Token budgets of a step that are tried: fewer than an assessment tries, for a ratio."""
DEMAND: Final = 100.0
"""Requests per second of a fleet of which one replica sees a share; the ratio of two chips hardly depends on it."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What one chip serves of a model.

    Attributes:
        per_chip: requests per second of one chip as sold, by draw; empty where it serves nothing. [draws]
        why: reason of an empty answer.
    """

    per_chip: F8
    why: str = ""


def traffic_of(study: Study, model: Model) -> tuple[Workload, str]:
    """The serving workload that the exchange rate is about: the study's own of this model, else a chat."""
    for work in study.workloads_of("serve"):
        if load_model(work.model).id == model.id:
            return work, f"the traffic and limits of {work.id}"
    slo: dict[SloKey, float] = {"ttft_p90": constant("serving_ttft"), "tpot_p90": constant("serving_tpot")}
    work = Workload(id="inference", kind="serve", model=model.id, slo=slo,
                    synthetic=Synthetic(preset=PRESET, requests=REQUESTS))  # fmt: skip
    return work, f"chat traffic ({PRESET}), TTFT p90 {slo['ttft_p90']:g} s, TPOT p90 {slo['tpot_p90'] * 1e3:g} ms"


def question_for(setting: Setting, work: Workload, model: Model) -> Question:
    """What is asked of every chip: one simulated layout, all engines and degrees free."""
    seed = derive_seed(setting.study.study.seed, "train", "inference", work.id)
    requests = requests_of(load_trace(work, seed=seed))
    return Question(
        model=model, mix=mix_of(requests, context_limit=model.max_context_tokens),
        slo={str(key): value for key, value in work.slo.items()},
        stream=Stream(requests=requests, seed=setting.study.study.seed, demand=DEMAND),
        limits=Limits(dtypes=work.dtypes, chunks=CHUNKS), simulate=1, most_requests=REQUESTS, accept=work.spec_accept,
    )  # fmt: skip


def served(setting: Setting, question: Question, chip: Chip) -> Inference:
    """Requests per second of one chip, by draw."""
    try:
        found = find(
            question, chip.id, catalog=setting.catalog, calibration=load_parameters(""),
            as_of=setting.study.study.as_of, log=setting.log,
        )  # fmt: skip
    except OfframpError as error:
        return Inference(per_chip=np.zeros(0), why=error.what)
    if found.rate <= 0.0:
        reason = "; ".join([*(item.text for item in found.blockers if item.stops), *found.floor])
        return Inference(per_chip=np.zeros(0), why=reason or "serves nothing within these limits")
    return Inference(per_chip=found.per_chip_draws)


def beside(ours: Inference, base: Inference, training: F8, seed: int, words: str) -> dict[str, Any]:
    """Chips that replace one of the chip in use for inference, and the training rate over it.

    The two rates come from two fits; their errors are taken as independent, each rate's own cancel within it.

    Args:
        ours, base: of the chip and of the chip in use.
        training: exchange rate for training, by draw.
        seed: of the pairing.
        words: what is served.
    """
    why = ours.why or base.why
    if why:
        return {"traffic": words, "exchange_rate": None, "training_over_inference": None, "p_training_needs_more": None,
                "why": why}  # fmt: skip
    ratio = base.per_chip / np.maximum(ours.per_chip, 1e-12 * float(np.max(base.per_chip)))
    rng = np.random.default_rng(derive_seed(seed, "train", "beside"))
    other = rng.permutation(np.resize(ratio, training.size))
    over = training / other
    return {"traffic": words, "exchange_rate": quantiles(ratio), "training_over_inference": quantiles(over),
            "p_training_needs_more": float(np.mean(over > 1.0)), "why": ""}  # fmt: skip
