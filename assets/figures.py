"""The style of all PNG plots: each draws on a Figure of its own, without pyplot and global state, safe in threads."""

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, FAINT, GRID = "#1f2328", "#6e7781", "#e4e7eb"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, at 96 dots an inch: 11 inches fit the window in which Dagster shows it."""
    figure = Figure(figsize=(width, height), dpi=96, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes) -> Axes:
    """The axes with a faint grid and without a frame at top and right."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelcolor=INK)
    return axes


def new_axes(figure: Figure, *place: int) -> Axes:
    """Styled axes at a place as `Figure.add_subplot` takes it."""
    return style(figure.add_subplot(*place))


def png(figure: Figure) -> bytes:
    """The bytes of a PNG that depend on nothing but the figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def nothing(title: str, why: str) -> bytes:
    """A picture that says why there is nothing to show."""
    figure = new_figure(7, 2)
    axes = figure.add_subplot(111)
    axes.axis("off")
    axes.set_title(title, loc="left", color=INK)
    axes.text(0.5, 0.4, why, ha="center", va="center", color=FAINT)
    return png(figure)
