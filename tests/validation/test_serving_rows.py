"""The shipped published rows: none is lost, predictions beat the plain roofline, intervals hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from offramp.app import measured
from offramp.app.validate import validate
from offramp.core.errors import InputError
from offramp.cost.calibration import load_calibration
from offramp.validate.exchange import find_pairs, predict_pairs
from offramp.validate.predict import KIND, predict

ROWS = Path(measured.__file__).parents[1] / "data" / "validation" / "rows.csv.gz"


@pytest.fixture(scope="module")
def loaded() -> measured.Loaded:
    return measured.load(ROWS)


def test_no_row_is_lost(loaded: measured.Loaded) -> None:
    itl = "ITL columns only: they are per streamed chunk, not per token"
    unpredicted = sum(len(ids) for why, ids in loaded.unpredicted.items() if why != itl)
    assert loaded.rows == len(loaded.cases) + unpredicted + len(loaded.rejected)
    assert len(loaded.cases) > 0.9 * loaded.rows


def test_predictions_beat_the_roofline_and_intervals_hold(loaded: measured.Loaded) -> None:
    found = [p for p in predict(loaded.cases[::4], load_calibration()) if p.grade in ("A", "B")]
    assert all(0 < p.p10 <= p.p50 <= p.p90 < np.inf for p in found)
    for kind, limit in (("tpot", 0.15), ("ttft", 0.40), ("output", 0.20)):
        mine = [p for p in found if KIND.get(p.metric, "output") == kind]
        error = np.median([abs(p.p50 / p.measured - 1) for p in mine])
        plain = np.median([abs(p.roofline / p.measured - 1) for p in mine])
        held = np.mean([p.p10 <= p.measured <= p.p90 for p in mine])
        print(f"{kind}: {len(mine)} rows, median {error:.1%}, roofline {plain:.1%}, held {held:.0%}")
        assert error < limit
        assert error < 0.6 * plain
        assert 0.65 < held < 0.97


def test_exchange_rates_of_one_engine_are_close(loaded: measured.Loaded) -> None:
    pairs = predict_pairs(find_pairs(loaded.cases), load_calibration())
    assert len(pairs) > 80
    assert np.median([abs(np.log(p.p50 / p.measured)) for p in pairs]) < 0.25
    assert np.mean([p.p10 <= p.measured <= p.p90 for p in pairs]) > 0.7


def test_h20_to_910b2_for_qwen3_32b_beside_the_measured_rates(shared: Path) -> None:
    cases = measured.load(shared / "measurements" / "serving.csv").cases
    chitu = [c for c in cases if c.row.id.startswith("chitu") and c.model.id.lower().endswith("qwen3-32b")]
    pairs = [p for p in predict_pairs(find_pairs(chitu), load_calibration()) if p.other == "huawei/ascend-910b2"]
    assert len(pairs) >= 6
    assert all(3.2 < p.measured < 4.5 for p in pairs)
    assert np.mean([p.p10 <= p.measured <= p.p90 for p in pairs]) > 0.5


def test_the_json_contract(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(
        "id,chip,model,engine,n_chips,tp,isl,osl,concurrency,spec,grade,tpot_ms_mean,ttft_ms_mean\n"
        "a,nvidia/h200,Qwen/Qwen3-32B,vLLM,1,1,1024,512,8,none,A,25,200\n"
        "b,nvidia/h200,no/such-model,vLLM,1,1,1024,512,8,none,A,25,200\n"
        "a,nvidia/h200,Qwen/Qwen3-32B,vLLM,1,1,1024,512,8,none,A,25,200\n"
    )
    answer = json.loads(json.dumps(validate(file).answer))
    assert set(answer) == {"rows", "groups", "unpredicted", "rejected"}
    assert {r["metric"] for r in answer["rows"]} == {"tpot_ms_mean", "ttft_ms_mean"}
    assert set(answer["rows"][0]) == {
        "id",
        "chip",
        "engine",
        "model",
        "grade",
        "metric",
        "measured",
        "p10",
        "p50",
        "p90",
    }
    assert answer["unpredicted"][0]["ids"] == ["b"]
    assert answer["rejected"] == [{"id": "a", "why": "the id occurs twice"}]
    with pytest.raises(InputError, match="cannot group by"):
        validate(file, by=("chips",))
