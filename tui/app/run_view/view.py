"""All panels of one run: the same for one that is live and for one of last year, because both read the same log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Self

from textual.binding import Binding
from textual.containers import Vertical
from textual.geometry import Region
from textual.message import Message
from textual.widget import Widget

from tui.app.run_view import cells as run_cells
from tui.app.run_view.given import GivenPictures
from tui.app.run_view.head import RunHead
from tui.app.run_view.log_view import LogView
from tui.app.run_view.stages import Stages
from tui.app.run_view.timeline import Timeline
from tui.app.widgets.picture import STEP_FPS, Picture
from tui.app.widgets.plot import Plot
from tui.units import clock, size

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from textual import events
    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.geometry import Size

    from store.index.previews import Preview
    from store.lineage.records import RunRecord
    from tui.describe.runs.following.state import RunState
    from tui.describe.runs.given import GivenTo

# Plots and log, most of what is drawn, are drawn so often at most; the second is of steps that nobody sees each.
_PANEL_NS = 500_000_000
_FAST_PANEL_NS = 900_000_000
# Below either, the panels under the head take turns as tabs of one area.
_ALL_FROM = (100, 28)
# From so many columns on what there is more is the preview's first.
_LARGE_FROM = 140
TABS = {"sigma": "σ", "latents": "latents", "memory": "memory", "preview": "preview", "log": "log"}


class Panel(Vertical, can_focus=True):
    """A titled box that can be focused, so that it can be enlarged."""

    ALLOW_MAXIMIZE = True
    _is_noting = False

    def note(self, text: str) -> None:
        """Put a text into the lower border, and paint that alone: Textual paints all of a box whose border changes."""
        if str(self.border_subtitle or "") != text:
            self._is_noting = True
            self.border_subtitle = text
            self._is_noting = False

    def refresh(
        self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False
    ) -> Self:
        if self._is_noting:
            left, top = self.gutter.top_left  # regions are told from the content on
            width, height = self.outer_size
            regions = (Region(-left, height - 1 - top, width, 1),)
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)


class RunView(Widget):
    """`show` draws what has changed in a state, `show_preview` the picture of a step or of the video. It reads nothing
    itself."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket", "tab(-1)", "Panel back", id="panel.prev", show=False),
        Binding("right_square_bracket", "tab(1)", "Next panel", id="panel.next", show=False),
    ]
    DEFAULT_CSS = """
    RunView {
        layout: grid;
        grid-size: 3 3;
        grid-columns: 1fr 1fr 38;
        grid-rows: 12 1fr 1fr;
        height: 1fr;
        width: 1fr;
    }
    RunView > #run { column-span: 2; }
    RunView > #preview { row-span: 2; }
    RunView > #log { column-span: 2; }
    RunView.-large { grid-columns: 3fr 3fr 5fr; }
    RunView.-tabs { layout: vertical; }
    RunView.-tabs > .panel { display: none; height: 1fr; }
    RunView.-tabs > #run { display: block; height: 11; }
    RunView.-tabs > .-current { display: block; }
    RunView.-tabs Timeline { height: 4; }
    RunView.-tabs > #preview { layout: horizontal; }
    RunView.-tabs GivenPictures { height: 1fr; }
    RunView > .panel.-maximized { height: 1fr; }
    RunView > .-maximized Timeline { height: 5; }
    """

    class PreviewWanted(Message):
        """The picture of the cursor's step is to be shown: the cursor is at another one, by hand or because a step was
        done, or the picture can be seen again."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.is_following = True
        self._tab = "preview"
        self._state: RunState | None = None
        self._sigmas: Sequence[float] = ()
        self._drawn: tuple[object, ...] = ()
        self._num_lines = 0
        self._panels_ns = 0
        self._is_panel_due = False

    def compose(self) -> ComposeResult:
        with Panel(id="run", classes="panel") as run:
            run.can_focus = False
            yield RunHead(id="head")
            yield Stages()
            yield Timeline()
        with Panel(id="memory", classes="panel"):
            yield Plot(
                y_format=_bytes, x_format=clock, binary_ticks=True, empty="nothing measured yet"
            )
        with Panel(id="sigma", classes="panel"):
            yield Plot(empty="no schedule yet")
        with Panel(id="latents", classes="panel"):
            yield Plot(y_format=_short, empty="no step computed yet")
        with Panel(id="preview", classes="panel"):
            # what the terminal can draw is asked before the app runs
            yield Picture(graphics=getattr(self.app, "graphics", None))
            yield GivenPictures()
        yield LogView(id="log", classes="panel")

    def on_mount(self) -> None:
        self._fit(self.screen.size)  # a guess until it knows its own: nothing is drawn twice
        self._set_tab(self._tab)

    def on_resize(self, event: events.Resize) -> None:
        self._fit(event.size)

    def _fit(self, size: Size) -> None:
        is_small = size.width < _ALL_FROM[0] or size.height < _ALL_FROM[1]
        self.set_class(not is_small and size.width >= _LARGE_FROM, "-large")
        if is_small != self.has_class("-tabs"):
            self.set_class(is_small, "-tabs")
            self._set_tab(self._tab)

    # What is shown

    @property
    def cursor(self) -> int:
        """The step that is looked at, 0 for the noise."""
        return self.query_one(Timeline).cursor

    @property
    def wants_preview(self) -> bool:
        """Whether the picture can be seen."""
        return self.query_one("#preview").display

    def clear(self) -> None:
        """Forget the run, before another one is shown."""
        self._state, self._sigmas, self._drawn = None, (), ()
        self._num_lines = self._panels_ns = 0
        self.is_following = True
        self.query_one(RunHead).show(None)
        self.query_one(Stages).show(())
        self.query_one(Timeline).show(())
        for plot in self.query(Plot):
            plot.show(())
        self.show_preview(None)
        self.show_given(())
        self.query_one(LogView).clear()
        self.query_one("#run").border_title = ""

    def show(
        self,
        state: RunState,
        *,
        record: RunRecord | None = None,
        prompt: str = "",
        changes: str = "",
        sigmas: Sequence[float] = (),
        decode_seconds: float | None = None,
        points: Collection[int] | None = None,
        now_ns: int | None = None,
        silence: str = "",
    ) -> None:
        """Draw what is new in `state`.

        record, sigmas (of the whole course): where they are known. prompt: as it was expanded, else empty. changes: of
        its preset, in words. decode_seconds: what decoding took in like runs. points: after which steps a branch finds
        its state stored, None to go by the log. silence: why the engine gives no sign of life, if it gives none.
        """
        if self._state is not None and self._state is not state:
            self.clear()
        self._state = state
        now_ns = time.time_ns() if now_ns is None else now_ns
        self._sigmas = sigmas
        self.query_one(RunHead).show(
            run_cells.head(
                state,
                record,
                prompt=prompt,
                changes=changes,
                decode_seconds=decode_seconds,
                now_ns=now_ns,
                silence=silence,
            )
        )
        self.query_one(Stages).show(run_cells.stage_cells(state, now_ns))
        drawn = (state.changes, record and record.id, len(sigmas), points)
        if drawn != self._drawn:
            self._drawn, self._is_panel_due = drawn, True
            self._title("run", state.run_id)
            self.query_one(Timeline).show(run_cells.step_cells(state, points))
            self._follow()
        panel_ns = _FAST_PANEL_NS if run_cells.is_fast(state) else _PANEL_NS
        if self._is_panel_due and (state.is_over or now_ns - self._panels_ns >= panel_ns):
            self._panels_ns, self._is_panel_due = now_ns, False
            self._show_panels()

    def show_preview(
        self, preview: Preview | None, told: str = "no preview yet", *, fps: float | None = None
    ) -> None:
        """A picture with what it shows; None for none, and then `told` says why. fps: None for that of steps."""
        picture = self.query_one(Picture)
        picture.fps = STEP_FPS if fps is None else fps
        picture.show(preview, "" if preview else told)
        self.query_one("#preview", Panel).note(told if preview else "")

    def show_given(self, given: Sequence[GivenTo]) -> None:
        """What the run began from."""
        self.query_one(GivenPictures).show(given)

    def _follow(self) -> None:
        """The cursor goes with the newest step until a hand moves it back."""
        assert self._state is not None
        newest = run_cells.newest_step(self._state)
        timeline = self.query_one(Timeline)
        if self.is_following and timeline.cursor != newest:
            timeline.cursor = newest
            self.post_message(self.PreviewWanted())

    def on_timeline_moved(self, message: Timeline.Moved) -> None:
        message.stop()
        if isinstance(message, Timeline.Chosen) or self._state is None:
            return
        self.is_following = message.step >= run_cells.newest_step(self._state)
        self._show_panels()
        self.post_message(self.PreviewWanted())

    def _show_values(self, state: RunState) -> None:
        values = run_cells.step_values(state, self.cursor, self._sigmas)
        self.query_one("#run", Panel).note(values)

    def _show_panels(self) -> None:
        """The panels that can be seen, and the values in the border; the others are drawn when their turn comes."""
        if self._state is None:
            return
        self._show_values(self._state)
        for name, show in (
            ("sigma", self._show_sigma),
            ("latents", self._show_latents),
            ("memory", self._show_memory),
            ("log", self._show_log),
        ):
            if self.query_one(f"#{name}").display:
                show(self._state)

    def _show_sigma(self, state: RunState) -> None:
        last = max(len(self._sigmas) - 1, len(state.steps), 1)
        series = run_cells.sigma_series(state, self._sigmas)
        plot = self.query_one("#sigma Plot", Plot)
        plot.show(series, marker=float(self.cursor), x_range=(0, last))

    def _show_latents(self, state: RunState) -> None:
        self.query_one("#latents Plot", Plot).show(
            run_cells.latent_series(state),
            marker=None if self.is_following else float(self.cursor),
            x_range=(1, max(2, len(state.steps))),
        )
        bad = run_cells.bad_step(state)
        self.query_one("#latents", Panel).note(f"✖ not finite at step {bad}" if bad else "")

    def _show_memory(self, state: RunState) -> None:
        self.query_one("#memory Plot", Plot).show(run_cells.memory_series(state))
        self.query_one("#memory", Panel).note(state.planned.words if state.planned else "")

    def _show_log(self, state: RunState) -> None:
        """Hidden, it would keep all that it is given until it knows its size."""
        lines = run_cells.new_lines(state, self._num_lines)
        self._num_lines = state.num_lines
        if lines:
            self.query_one(LogView).add(lines)

    # Tabs

    def action_tab(self, by: int) -> None:
        """Show the next of the panels that take turns."""
        names = list(TABS)
        self._set_tab(names[(names.index(self._tab) + by) % len(names)])

    def _set_tab(self, tab: str) -> None:
        self._tab = tab
        is_small = self.has_class("-tabs")
        for name in TABS:
            self.query_one(f"#{name}").set_class(name == tab, "-current")
            self._title(name, _tab_title(name) if is_small else TABS[name])
        self._show_panels()
        if self.wants_preview:
            self.post_message(self.PreviewWanted())

    def _title(self, name: str, title: str) -> None:
        """Titles are drawn again only where they differ."""
        panel = self.query_one(f"#{name}")
        if str(panel.border_title or "") != title:
            panel.border_title = title


def _tab_title(current: str) -> str:
    """All of them between their keys; a title is markup, in which a bracket is to be escaped."""
    words = [f"‹{word}›" if name == current else word for name, word in TABS.items()]
    return f"\\[  {'  '.join(words)}  ]"


def _bytes(value: float) -> str:
    return size(round(value))


def _short(value: float) -> str:
    return f"{value + 0.0:.2f}"
