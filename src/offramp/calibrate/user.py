"""A user's own rows: their deployment's effects, drawn jointly with what the parameter file already believes.

Every draw of the parameter file gets its own fit to the rows, each perturbed by its error (randomised maximum
likelihood). Draws that agree with the rows stay where they are, the others move; the joint structure of the file
(what chips and engines have in common) survives.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from offramp.calibrate.fit import STEP
from offramp.calibrate.observe import observe, tokens_per_s
from offramp.core.seeds import derive_seed
from offramp.cost.calibration import SHARE_CAP, SHARES, Calibration, centring, load_prior, parameters_for
from offramp.cost.parameters import PARAMETER_NAMES, Parameters
from offramp.validate.cases import Case
from offramp.validate.closed import make_batch, solve
from offramp.validate.predict import median_draw, parameters_of

F8 = npt.NDArray[np.float64]

DEPLOYMENT_SHARE: Final = 0.6
"""Share of a parameter's prior variance that one deployment's own effect may use. Assumed."""
ROW_NOISE: Final = np.array([0.04, 0.04, 0.15, 0.15])
"""Error of a user's row by kind. Source: the same cell rerun within days differs by 0.3 % in TPOT, 3 % over weeks."""
STEPS: Final = 4


def update(base: Calibration, cases: Sequence[Case], *, created: dt.date, seed: int = 0) -> Calibration:
    """The parameter file with effects of the deployments that ``cases`` were measured on.

    Args:
        base: parameter file to start from.
        cases: the user's rows; rows of one chip and engine share one effect.
        created: day of the update.
        seed: of the perturbations.
    """
    plain = [case if len(case.variants) == 1 else _likeliest(case) for case in cases]
    effects = {name: dict(found) for name, found in base.effects.items()}
    for key in sorted({case.stack.deployment for case in plain}):
        mine = [case for case in plain if case.stack.deployment == key]
        moved = _fit_draws(base, mine, seed=derive_seed(seed, key))
        start = _logs(base, mine[0])
        for p, name in enumerate(PARAMETER_NAMES):
            # readers centre the sum of all effects anew; without the difference the fit would miss by it
            own = moved[:, p] + centring(name, start[:, p]) - centring(name, start[:, p] + moved[:, p])
            effects.setdefault(name, {})[key] = [round(float(v), 5) for v in own]
    digest = hashlib.blake2b("".join(sorted(case.row.id for case in plain)).encode(), digest_size=6).hexdigest()
    return msgspec.structs.replace(
        base, version=f"{base.version}+{digest}", created=max(created, base.created), effects=effects,
        row_ids=(*base.row_ids, *(case.row.id for case in plain)),
        note=f"{base.note} Updated with {len(plain)} own rows.".strip(),
    )  # fmt: skip


def _likeliest(case: Case) -> Case:
    best = int(np.argmax([variant.weight for variant in case.variants]))
    return replace(case, variants=(replace(case.variants[best], weight=1.0),), kv_tokens=(case.kv_tokens[best],))


def _fit_draws(base: Calibration, cases: Sequence[Case], *, seed: int) -> F8:
    """Deployment effects of every draw. ``[draws, P]``"""
    batch = make_batch(cases)
    guess = solve(batch, median_draw(parameters_of(cases, batch, base))).seqs[0]
    batch = make_batch(cases, seqs=guess)
    observed = observe(cases, ["mine"] * len(cases))
    start = np.stack([_logs(base, case) for case in cases], axis=2)  # [draws, P, n]
    prior = load_prior()
    sd = np.array([prior.population[name].log_sd for name in PARAMETER_NAMES]) * np.sqrt(DEPLOYMENT_SHARE)
    rng = np.random.default_rng(seed)
    noise = ROW_NOISE[observed.kind]
    target = observed.value + rng.standard_normal((base.draws, observed.value.size)) * noise
    anchor = rng.standard_normal((base.draws, sd.size)) * sd
    delta = np.zeros((base.draws, sd.size))

    def logs(d: F8) -> F8:
        found = solve(batch, _parameters(start + d[:, :, None]))
        stacked = np.stack([tokens_per_s(batch, found), found.tpot_s, found.ttft_s, found.ttft_median_s])
        picked: F8 = np.log(np.maximum(stacked, 1e-12))[observed.kind, :, observed.entry].T
        return picked

    for _ in range(STEPS):
        value = logs(delta)
        slopes = np.empty((base.draws, observed.value.size, sd.size))
        for p in range(sd.size):
            moved = delta.copy()
            moved[:, p] += STEP
            slopes[:, :, p] = (logs(moved) - value) / STEP
        left = target - value + np.einsum("dmp,dp->dm", slopes, delta)
        normal = np.einsum("dmp,m,dmq->dpq", slopes, 1.0 / noise**2, slopes) + np.diag(1.0 / sd**2)
        right = np.einsum("dmp,m,dm->dp", slopes, 1.0 / noise**2, left) + anchor / sd**2
        step = np.linalg.solve(normal, right[:, :, None])[:, :, 0] - delta
        delta = delta + np.clip(step, -0.8, 0.8)
    return delta


def _logs(base: Calibration, case: Case) -> F8:
    table = parameters_for(base, case.stack)
    return np.log(np.stack([getattr(table, name)[:, 0] for name in PARAMETER_NAMES], axis=1))


def _parameters(logs: F8) -> Parameters:
    values = np.exp(logs)
    return Parameters(
        **{
            name: np.minimum(values[:, p], SHARE_CAP) if name in SHARES else values[:, p]
            for p, name in enumerate(PARAMETER_NAMES)
        }
    )
