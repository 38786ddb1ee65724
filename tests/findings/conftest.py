"""Every test of checks draws its numbers anew, so that none depends on which ran before it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import findings_tables


@pytest.fixture(autouse=True)
def _same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings_tables, "RNG", np.random.default_rng(0))
