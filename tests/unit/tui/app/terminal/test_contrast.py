"""Text can be read: at least 4.5 to 1 against what is behind it, in a dark and a light theme."""

from __future__ import annotations

import pytest
from textual.app import App
from textual.color import Color
from textual.filter import dim_color

from tests.unit.tui.opened_app import play, until
from tui.app.terminal.contrast import ENOUGH, ratio, readable_variables
from tui.app.top_line import TABS

# Lines and bars, which say nothing that is not written too; and what is never shown: numbers of lines, and the cursor
# in the head of a table.
NO_TEXT = ("separator", "guides", "underline--bar", "usage--part", "gutter", "header-cursor")


def test_the_ratio_is_that_of_the_standard():
    assert ratio(Color.parse("#000"), Color.parse("#fff")) == pytest.approx(21)
    assert ratio(Color.parse("#777"), Color.parse("#fff")) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [name for name in App().available_themes if "ansi" not in name])
def test_every_theme_has_readable_text(theme):
    app = App()
    app.theme = theme
    before = app.get_css_variables()
    changed = readable_variables(before)
    for ground in (Color.parse(before[name]) for name in ("background", "surface", "panel")):
        for name in ("text-warning", "text-success", "text-error", "text-accent"):
            assert ratio(Color.parse(changed[name]), ground) >= ENOUGH, name
    cursor = Color.parse(changed["block-cursor-background"])
    text = cursor.blend(cursor.get_contrast_text().with_alpha(1.0), 0.87)
    assert ratio(text, cursor) >= ENOUGH


def test_colours_of_the_terminal_itself_stay():
    app = App()
    app.theme = "ansi-dark"
    assert readable_variables(app.get_css_variables()) == {}


def poor(screen):
    """(widget, component class, ratio) of the styles of a screen that give too little."""
    for widget in screen.walk_children():
        for name in ("", *sorted(widget._component_styles)):
            if any(part in name for part in NO_TEXT):
                continue
            style = widget.get_visual_style(name) if name else widget.visual_style
            if style.background is None or style.foreground is None:
                continue
            ground = widget.background_colors[1] + style.background
            text = ground + style.foreground
            if style.dim:
                text = Color.from_rich_color(dim_color(ground.rich_color, text.rich_color))
            if ratio(text, ground) < ENOUGH:
                yield type(widget).__name__, name, round(ratio(text, ground), 2)


def test_every_screen_can_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def script(pilot):
        for theme in ("textual-dark", "textual-light"):
            pilot.app.theme = theme
            for mode in TABS:
                await pilot.app.switch_mode(mode)
                screen = pilot.app.screen
                # a theme reaches a screen that was hidden a moment after it is shown
                await until(pilot, lambda: not set(poor(screen)), f"{theme} {mode}")  # noqa: B023

    play("compose", script)
