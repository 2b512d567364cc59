"""offramp models: list, one, JSON, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from offramp.cli import main
from offramp.cli.models import command


def run(*args: str) -> str:
    outcome = CliRunner().invoke(command, list(args), catch_exceptions=False)
    assert outcome.exit_code == 0
    return outcome.output


def test_json_has_the_sizes_at_the_top_level() -> None:
    answer = json.loads(run("deepseek-ai/DeepSeek-V3", "--json"))
    assert answer["parameters_total"] == 671_026_419_200
    assert answer["parameters_active"] / 1e9 == pytest.approx(37, rel=0.02)
    assert answer["kv_bytes_per_token"] == 70_272
    assert answer["answer"]["weight_bytes_by_dtype"]["bf16"] == pytest.approx(2 * 671_026_419_200)


def test_list_holds_every_preset() -> None:
    from offramp import arch

    answer = json.loads(run("--json"))
    assert [row["id"] for row in answer["models"]] == arch.presets()
    assert "deepseek-ai/DeepSeek-R1" in run()


def test_one_model_in_words() -> None:
    text = run("openai/gpt-oss-120b")
    assert "116.8 B parameters, 5.13 B active" in text
    assert "window 128" in text


@pytest.mark.parametrize(("content", "code"), [("{", 2), ('{"model_type": "x"}', 4), ('{"model_type": "llama"}', 2)])
def test_bad_files_end_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, code: int
) -> None:
    file = tmp_path / "config.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        main(["models", str(file)])
    captured = capsys.readouterr()
    assert stop.value.code == code
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("offramp: ")
