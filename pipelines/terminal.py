"""How the command line shows work: bars on a terminal, lines in a log."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipelines.plan import Step

LOG_EVERY_S = 10.0


class Board:
    """Shows one step at a time with its progress, and how many are left."""

    def __init__(self, total: int, console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False)
        self.total = total
        self.number = 0
        self.began = time.monotonic()
        self.bars: Progress | None = None
        self.task: TaskID | None = None
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars:
            self.bars.stop()

    def show(self, step: Step) -> Callable[[float, float, str], None]:
        """Announce a step; returns its progress callback."""
        self.number += 1
        began = last = time.monotonic()
        title = f"[{self.number}/{max(self.total, self.number)}] {step.stage} {step.partition}"
        if self.bars:
            if self.task is not None:
                self.bars.remove_task(self.task)
            self.bars.console.print(
                f"[bold]{title.replace('[', chr(92) + '[', 1)}[/bold] [dim]{step.why}", soft_wrap=True
            )
            self.task = self.bars.add_task("", total=None, note="")
        else:
            print(f"{title} ({step.why})", file=sys.stderr, flush=True)

        def progress(done: float, total: float, note: str = "") -> None:
            nonlocal last
            if self.bars and self.task is not None:
                self.bars.update(self.task, completed=done, total=total, note=note)
                return
            now = time.monotonic()
            if now - last >= LOG_EVERY_S:
                last = now
                left = (now - began) / done * (total - done) if done else 0.0
                print(f"    {done:g}/{total:g} {note}, {left:.0f} s left", file=sys.stderr, flush=True)

        return progress
