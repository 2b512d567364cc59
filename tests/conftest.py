"""Shared fixtures: the optional research data beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# a busy machine is no failure, and the same commit gives the same outcome
settings.register_profile(
    "offramp", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("offramp")

SHARED = Path(os.environ.get("OFFRAMP_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The research data folder; tests that need it are left out (and listed) where it is absent."""
    if not (SHARED / "measurements" / "serving.csv").is_file():
        pytest.skip("needs the research data beside the checkout (set OFFRAMP_SHARED)")
    return SHARED
