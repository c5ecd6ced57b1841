"""How the command line shows work: bars on a terminal, lines in a log."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from assets.log import logged
from models.errors import FoveaError
from pipelines.plan import Step


class Board:
    """Shows the steps that are under way with their progress, `parallel` at most, and how many are left."""

    def __init__(self, total: int, console: Console | None = None, *, parallel: int = 1):
        self.console = console or Console(stderr=True, highlight=False)
        self.total, self.parallel = total, parallel
        self.number = 0
        self.bars: Progress | None = None
        if self.console.is_terminal:
            self.bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[note]}"),
                console=self.console,
                transient=True,
            )

    def __enter__(self) -> Self:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()

    def show(self, step: Step) -> "Shown":
        """Announce a step; returns its progress callback."""
        self.number += 1
        title = f"[{self.number}/{max(self.total, self.number)}] {step.stage} {step.partition}"
        if self.bars:
            if self.parallel == 1:
                for task in self.bars.task_ids:
                    self.bars.remove_task(task)
            self.bars.console.print(f"[bold]{escape(title)}[/bold] [dim]{escape(step.reason)}", soft_wrap=True)
        else:
            print(f"{title} ({step.reason})", file=sys.stderr, flush=True)
        return Shown(self.bars, f"[{self.number}] " if self.parallel > 1 else "")


class Shown:
    """Progress: a bar, or a line every ten seconds. mark: what stands before it."""

    def __init__(self, bars: Progress | None, mark: str):
        self.bars = bars
        self.lines = logged(lambda line: print(f"    {mark}{line}", file=sys.stderr, flush=True), end=False)
        self.seen = 0.0
        self.task: TaskID | None = bars.add_task(escape(mark), total=None, note="") if bars else None

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """As assets.graph.Progress."""
        if self.bars is None:
            self.lines(done, total, note)
        elif self.task is not None:
            if done < self.seen:  # other work of the same name
                self.bars.reset(self.task)
            self.seen = done
            self.bars.update(self.task, completed=done, total=total, note=escape(note))

    def done(self) -> None:
        """The step has ended: its bar goes."""
        if self.bars and self.task is not None:
            self.bars.remove_task(self.task)
            self.task = None


@contextmanager
def shown(what: str, console: Console | None = None) -> Iterator[Shown]:
    """The progress of what is no step, with its name."""
    with Board(1, console) as board:
        yield Shown(board.bars, f"{what} ")


def script(main: Callable[..., None], usage: str | None) -> None:
    """Run a script of results/ with its arguments: one line for what a person can mend, its first lines where arguments are
    missing."""
    try:
        inspect.signature(main).bind(*sys.argv[1:])
    except TypeError as error:
        sys.exit(f"{usage or ''}\n{error}")
    try:
        main(*sys.argv[1:])
    except FoveaError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
