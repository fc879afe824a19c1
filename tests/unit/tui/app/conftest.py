"""Every app of these tests is a cheap one."""

from __future__ import annotations

import pytest

from tests import quick_app


@pytest.fixture(autouse=True, scope="session")
def spared_collector() -> None:
    quick_app.spare_the_collector()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_app.share_style_sheets(monkeypatch)
    quick_app.paint_at_rest(monkeypatch)
