"""Engines killed at random moments: a short one of the storms that tests/benchmark/storm.py makes."""

from __future__ import annotations

import pytest

from tests.benchmark.storm import storm


@pytest.mark.parametrize("seed", [1])
def test_a_storm_of_kills_changes_no_result(tmp_path, seed):
    report = storm(tmp_path, kills=8, seed=seed)
    assert report.kills == 8
    assert report.interrupted > 1
    assert report.reused > 0
