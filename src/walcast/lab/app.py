"""`walcast lab` on a terminal: the cluster as it is, and keys that do things to it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, ClassVar, Final

import psycopg
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.css.query import NoMatches
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, RichLog, Static
from textual.widgets.option_list import Option
from textual.worker import Worker, WorkerState

from walcast.app.cluster import View
from walcast.cluster.local import LocalCluster
from walcast.cluster.profiles import BUILTIN, parse
from walcast.lab import drawing
from walcast.lab.lessons import LESSONS, taught
from walcast.lab.table import LIMIT
from walcast.lab.world import World
from walcast.model import WalcastError

_REFRESH: Final = 0.5
"""Seconds between two looks at the cluster."""
_MANY: Final = 100
_IDLE: Final = f"w: a message of at most {LIMIT} characters"
_TYPING: Final = "Enter writes it to the primary, Escape leaves"
_STYLES: Final = {"good": "green", "bad": "bold red", "stale": "bold magenta", "step": "dim", "info": ""}
_HELP: Final = """\
1 2 3 ...  choose a server: what you do is done to it

w  write a message to the primary   m  write a hundred rows, reading each
r  read from the chosen server      t  read with the last write's token
p  durability profile               l  guided lessons, n goes on
s  stop or start                    k  kill (kill -9)
z  pause or resume the replay       d  delay the network
x  cut the network                  u  undo pause, delay and cut
o  promote                          O  promote by force
v  switchover: nothing is lost      j  rejoin
a  all well again                   q  quit; the cluster stays up

Ctrl-C calls off a COMMIT that waits, and says what became of the row.
"""


class Choice(ModalScreen[str | None]):
    """One of several, or none."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Back")]

    def __init__(self, title: str, options: dict[str, str]) -> None:
        super().__init__()
        self._title, self._options = title, options

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(self._title, classes="title")
            yield OptionList(*(Option(f"{name}  {about}", id=name) for name, about in self._options.items()))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)


class Page(ModalScreen[None]):
    """A text to read."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,space,question_mark", "dismiss(None)", "Back")
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        yield Static(self._text, classes="box")


class LabApp(App[None]):
    """The lab over a cluster that is up."""

    TITLE = "walcast lab"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #left { width: 66; }
    #topology, #promise, #chart { border: round $primary; padding: 0 1; }
    #topology { height: 1fr; min-height: 8; }
    #promise { height: auto; max-height: 9; }
    #chart { height: 9; }
    #events { border: round $primary; padding: 0 1; }
    #lesson { border: heavy $warning; padding: 0 1; height: auto; max-height: 8; display: none; }
    #lesson.shown { display: block; }
    .-narrow #columns { layout: vertical; }
    .-narrow #left { width: 100%; height: auto; }
    .-narrow #right { width: 100%; height: 1fr; }
    .-narrow #topology { height: auto; min-height: 0; }
    .-narrow #promise { max-height: 4; }
    .-narrow #message:disabled { display: none; }
    .-narrow #chart { display: none; }
    Choice, Page { align: center middle; }
    .box { width: auto; max-width: 92; height: auto; max-height: 90%; border: thick $primary; padding: 1 2; background: $surface; }
    Choice .box { width: 80; }
    .title { text-style: bold; }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w", "compose_message", "Write"),
        Binding("m", "write_many", "Many"),
        Binding("r", "read", "Read"),
        Binding("t", "read_token", "Token read"),
        Binding("p", "profile", "Profile"),
        Binding("s", "stop_or_start", "Stop"),
        Binding("k", "do('kill')", "Kill"),
        Binding("z", "pause", "Pause"),
        Binding("d", "do('delay')", "Delay", show=False),
        Binding("x", "do('cut')", "Cut"),
        Binding("u", "do('resume')", "Undo", show=False),
        Binding("o", "do('promote')", "Promote"),
        Binding("O", "do('force')", "Force", show=False),
        Binding("v", "do('switchover')", "Switchover", show=False),
        Binding("j", "do('rejoin')", "Rejoin", show=False),
        Binding("a", "settle", "All well", show=False),
        Binding("l", "lessons", "Lessons"),
        Binding("n", "next", "Next", show=False),
        Binding("question_mark", "help", "Help"),
        Binding("ctrl+c", "interrupt", "Interrupt", show=False, priority=True),
        Binding("escape", "leave", "Leave", show=False),
        Binding("q", "quit", "Quit"),
        *(Binding(str(number), f"choose({number})", show=False) for number in range(1, 10)),
    ]

    def __init__(self, cluster: LocalCluster) -> None:
        super().__init__()
        self._cluster = cluster
        self._opened = World.opened(cluster, self._tell)
        self.world: World | None = None
        self.chosen = (
            cluster.desired.replicas[0].name if cluster.desired.replicas else cluster.desired.primary
        )
        self._tick = 0
        self._positions: dict[str, int] = {}
        self._deed: Worker[None] | None = None
        self._lesson: AsyncIterator[str] | None = None

    def compose(self) -> ComposeResult:
        with Horizontal(id="columns"):
            with Vertical(id="left"):
                yield Static(id="topology")
                yield Static(id="promise")
                yield Static(id="chart")
            with Vertical(id="right"):
                yield RichLog(id="events", wrap=True, min_width=20)
                yield Static(id="lesson")
                yield Input(
                    placeholder=_IDLE,
                    id="message",
                    disabled=True,
                )
        yield Footer(compact=True)

    async def on_mount(self) -> None:
        for name, title in (
            ("topology", "servers"),
            ("promise", "durability"),
            ("chart", "latency"),
            ("events", "events"),
        ):
            self.query_one(f"#{name}").border_title = title
        try:
            self.world = await self._opened.__aenter__()
        except (WalcastError, psycopg.Error) as error:
            self.exit(return_code=3, message=f"error: {error}")
            return
        self._tell("? shows the keys; l begins a lesson", "info")
        self.set_interval(_REFRESH, self._look)
        await self._look()

    async def on_unmount(self) -> None:
        if self._lesson is not None:
            await self._end_lesson()
        if self.world is not None:
            await self._opened.__aexit__(None, None, None)

    # What is seen

    async def _look(self) -> None:
        if self.world is None:
            return
        view = await self.world.view()
        with contextlib.suppress(NoMatches):  # the screen was taken down meanwhile
            self._show(view, self.world)

    def _show(self, view: View, world: World) -> None:
        self._tick += 1
        topology = drawing.topology(view, self.chosen, self._tick, self._positions)
        self._positions = drawing.positions(view)
        self.query_one("#topology", Static).update(topology)
        said = drawing.promise(view)
        if world.writing_since is not None:
            waited = time.monotonic() - world.writing_since
            if waited > _REFRESH:
                said.append(
                    f"\nCOMMIT has waited {waited:.1f} s for {view.waiting_for}; Ctrl-C calls it off",
                    "bold yellow",
                )
        if world.stale:
            said.append(f"\nstale reads so far: {world.stale}", "magenta")
        self.query_one("#promise", Static).update(said)
        chart = self.query_one("#chart", Static)
        size = chart.content_size
        chart.update(drawing.chart(world.latencies, size.width, max(2, size.height - 1)))

    def _tell(self, line: str, kind: str) -> None:
        if not self.is_running:
            return
        stamp = time.strftime("%H:%M:%S ")
        with contextlib.suppress(NoMatches):  # as above
            self.query_one("#events", RichLog).write(
                Text.assemble((stamp, "dim"), (line, _STYLES.get(kind, "")))
            )

    # What is done: one deed at a time, so that the event log tells a story

    def _begin(self, deed: Coroutine[Any, Any, object]) -> None:
        if self._deed is not None and self._deed.state in (WorkerState.PENDING, WorkerState.RUNNING):
            deed.close()
            self._tell("Still at work; Ctrl-C calls off a COMMIT that waits", "bad")
            return
        self._deed = self.run_worker(self._told(deed), exclusive=False)

    async def _told(self, deed: Coroutine[Any, Any, object]) -> None:
        try:
            await deed
        except WalcastError as error:
            self._tell(f"{error.message}. hint: {error.hint}", "bad")
        except psycopg.Error as error:
            self._tell(f"error: {error.diag.message_primary or str(error).strip()}", "bad")

    def action_choose(self, number: int) -> None:
        nodes = self._cluster.desired.members
        if number <= len(nodes):
            self.chosen = nodes[number - 1].name

    def action_compose_message(self) -> None:
        message = self.query_one("#message", Input)
        message.disabled = False
        message.placeholder = _TYPING
        message.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self.world is not None:
            self._begin(self.world.write(event.value))
        self.action_leave()

    def action_leave(self) -> None:
        message = self.query_one("#message", Input)
        message.clear()
        message.placeholder = _IDLE
        message.disabled = True
        self.set_focus(None)

    def action_write_many(self) -> None:
        if self.world is not None:
            self._begin(self.world.write_many(_MANY, self.chosen))

    def action_read(self) -> None:
        if self.world is not None:  # also while something else is under way
            self.run_worker(self._told(self.world.read(self.chosen)))

    def action_read_token(self) -> None:
        if self.world is not None:
            self.run_worker(self._told(self.world.read_with_token()))

    def action_do(self, deed: str) -> None:
        if self.world is not None:
            self._begin(self.world.act(deed, self.chosen))

    def action_stop_or_start(self) -> None:
        node = self._cluster.desired.node(self.chosen)
        self.action_do("stop" if node.wanted == "running" else "start")

    def action_pause(self) -> None:
        node = self._cluster.desired.node(self.chosen)
        self.action_do("resume" if node.replay_paused else "pause")

    def action_settle(self) -> None:
        if self.world is not None:
            self._begin(self.world.settle())

    def action_profile(self) -> None:
        replicas = [node.name for node in self._cluster.desired.replicas]
        shown = (*BUILTIN.values(), parse("first-1"))
        options = {profile.name: profile.sentence(replicas).split(":")[0] for profile in shown}

        def switch(name: str | None) -> None:
            if name is not None and self.world is not None:
                self._begin(self.world.profile(name))

        self.push_screen(Choice("Durability: what does a COMMIT wait for?", options), switch)

    def action_help(self) -> None:
        self.push_screen(Page(_HELP))

    def action_interrupt(self) -> None:
        """Ctrl-C: of a COMMIT that waits, the wait; else nothing."""
        writing = self.world is not None and self.world.writing_since is not None
        if writing and self._deed is not None:
            self._deed.cancel()
        else:
            self._tell("Nothing waits. q quits; the cluster stays up", "info")

    # Lessons

    def action_lessons(self) -> None:
        options = {lesson.name: lesson.about for lesson in LESSONS.values()}

        def begin(name: str | None) -> None:
            if name is not None and self.world is not None and self._lesson is None:
                self._lesson = taught(LESSONS[name], self.world)
                self.action_next()

        self.push_screen(Choice("Lessons, on the real cluster", options), begin)

    def action_next(self) -> None:
        if self._lesson is not None:
            self._begin(self._go_on(self._lesson))

    async def _go_on(self, lesson: AsyncIterator[str]) -> None:
        panel = self.query_one("#lesson", Static)
        panel.add_class("shown")
        panel.update("...")
        try:
            said = await anext(lesson)
        except StopAsyncIteration:
            self._lesson = None
            panel.remove_class("shown")
            return
        except (WalcastError, psycopg.Error):
            self._lesson = None
            panel.remove_class("shown")
            raise
        panel.update(Text.assemble(said, ("\nn: go on", "bold yellow")))
        self._tell(said, "info")

    async def _end_lesson(self) -> None:
        lesson, self._lesson = self._lesson, None
        close = getattr(lesson, "aclose", None)
        if close is not None:
            await close()
