"""A user's own rows: planted truth is recovered, intervals tighten, advice beats chance."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import numpy as np
import pytest

from offramp import arch, catalog
from offramp.calibrate.advice import recommend
from offramp.calibrate.user import update
from offramp.cost.calibration import Calibration, from_prior, load_calibration, load_prior
from offramp.validate.cases import Case, build_case
from offramp.validate.closed import make_batch, solve
from offramp.validate.predict import parameters_of, predict, split_draws
from offramp.validate.rows import Row, parse_row

DAY = dt.date(2026, 11, 23)
MODEL = arch.load("Qwen/Qwen3-32B")


def rows(values: Sequence[tuple[float, float]] | None = None) -> list[Case]:
    shapes = [(c, isl) for c in (1, 4, 16, 64, 128) for isl in (256, 2048)]
    cases: list[Case] = []
    for i, (c, isl) in enumerate(shapes):
        output, tpot = values[i] if values else (1.0, 1.0)
        raw = {
            "id": f"mine-{i}", "chip": "huawei/ascend-910b2", "model": "Qwen/Qwen3-32B", "engine": "vllm-ascend", "n_chips": "4",
            "tp": "4", "isl": str(isl), "osl": "512", "concurrency": str(c), "spec": "none", "grade": "A",
            "output_tok_s": repr(float(output)), "tpot_ms_mean": repr(float(tpot)),
        }  # fmt: skip
        row = parse_row(raw)
        assert isinstance(row, Row)
        case = build_case(row, catalog=catalog.load(), resolve=lambda _: (MODEL, ""))
        assert isinstance(case, Case)
        cases.append(case)
    return cases


def planted(base: Calibration, draw: int) -> list[tuple[float, float]]:
    blank = rows()
    batch = make_batch(blank)
    truth = solve(batch, split_draws(parameters_of(blank, batch, base), draw))
    return list(zip(truth.rate[0] * batch.engines * batch.osl, truth.tpot_s[0] * 1e3, strict=True))


@pytest.fixture(scope="module")
def base() -> Calibration:
    return from_prior(load_prior(), draws=24, seed=5)


def test_ten_own_rows_recover_a_planted_truth_and_tighten(base: Calibration) -> None:
    values = planted(base, 7)
    mine = rows(values)
    refined = update(base, mine, created=DAY, seed=1)
    before = [p for p in predict(mine, base) if p.metric == "output_tok_s"]
    after = [p for p in predict(mine, refined) if p.metric == "output_tok_s"]
    error = np.median([abs(p.p50 / p.measured - 1) for p in after])
    assert error < 0.05
    assert error < np.median([abs(p.p50 / p.measured - 1) for p in before])
    assert np.median([p.p90 / p.p10 for p in after]) < 0.6 * np.median([p.p90 / p.p10 for p in before])
    assert np.mean([p.p10 <= p.measured <= p.p90 for p in after]) >= 0.8


def test_own_rows_do_not_move_another_chip(base: Calibration) -> None:
    refined = update(base, rows(planted(base, 3)), created=DAY)
    assert refined.row_ids == tuple(f"mine-{i}" for i in range(10))
    other = rows(planted(base, 3))[0]
    stack = other.stack._replace(chip="huawei/ascend-910c-752")
    assert not refined.is_measured(stack)
    assert refined.is_measured(other.stack)


def test_the_same_seed_gives_the_same_file(base: Calibration) -> None:
    mine = rows(planted(base, 2))[:3]
    assert update(base, mine, created=DAY, seed=4) == update(base, mine, created=DAY, seed=4)


def test_following_the_advice_tightens_faster_than_chance() -> None:
    rng = np.random.default_rng(0)
    draws = 400
    causes = rng.standard_normal((draws, 6))
    decision = (causes @ np.array([1.0, 0.6, 0.0, 0.0, 0.1, 0.0]))[:, None]
    candidates = [causes[:, [i]] + 0.1 * rng.standard_normal((draws, 1)) for i in range(6)]
    noise = [np.array([0.1])] * 6
    advice = recommend(decision, candidates, noise=noise, most=2)
    assert [a.index for a in advice] == [0, 1]
    assert advice[0].width_before > advice[0].width_after > advice[1].width_after
    chance = [recommend(decision, [candidates[i]], noise=[noise[i]], most=1) for i in range(6)]
    left = [found[0].width_after if found else advice[0].width_before for found in chance]
    assert advice[0].width_after < np.mean(left)


def test_the_shipped_parameter_file_is_a_fit() -> None:
    shipped = load_calibration()
    assert shipped.version.startswith("fit-")
    assert shipped.draws >= 32
    assert len(shipped.row_ids) > 1000
    assert shipped.residuals["output"].groups >= 50
    releases = [k.split("@")[1] for k in shipped.effects["step_host_s"] if k.startswith("release:vllm@")]
    assert shipped.current_release("vllm", "v0.12.0") == "0.12"
    assert shipped.current_release("vllm", "v99.0") in releases
    assert shipped.current_release("nobody", "1.2.3") == "1.2"
