"""The style of figures, without matplotlib's global state, so that they can be drawn in any thread."""

from base64 import b64encode
from io import BytesIO
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

# The colours of Okabe and Ito, which people tell apart whatever their colour vision.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY, INK = "#9A9A9A", "#222222"
FONT_SIZE = 8
DPI = 160
MAX_SHAPES = 500  # more than that are drawn as an image within a figure, else its file would hold a path for each
MIN_RATIO = 3.0  # of the largest error to the smallest, from which on a logarithmic axis shows more than a linear one


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure.

    Args:
        width: in inches.
        height: in inches.
    """
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def dress(axes: Axes, *, x: str, y: str, title: str = "") -> None:
    """Give axes their labels, with units in them, and a plain frame."""
    axes.set_xlabel(x, fontsize=FONT_SIZE, color=INK)
    axes.set_ylabel(y, fontsize=FONT_SIZE, color=INK)
    if title:
        axes.set_title(title, fontsize=FONT_SIZE + 1, color=INK, loc="left", fontweight="bold")
    axes.tick_params(labelsize=FONT_SIZE - 1, color=GREY, labelcolor=INK, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(visible=True, color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)


def add_legend(axes: Axes, *, place: Literal["best", "upper left", "outside"] = "best") -> Legend:
    """Add a legend without a frame; "best" is for few data, for it looks at all of them."""
    if place == "outside":
        return axes.legend(
            fontsize=FONT_SIZE - 1, frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0)
        )
    return axes.legend(fontsize=FONT_SIZE - 1, frameon=False, labelcolor=INK, loc=place)


def scale_errors(axes: Axes) -> None:
    """Give errors a logarithmic axis where they span enough of it, with plain numbers at its ticks."""
    values = [float(value) for line in axes.lines for value in np.asarray(line.get_ydata()) if value > 0]
    ratio = max(values) / min(values) if values else 1.0
    if ratio > MIN_RATIO:
        subs = (1, 1.5, 2, 3, 5, 7) if ratio < 30 else (1, 3) if ratio < 1000 else (1,)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def whole_numbers(axes: Axes) -> None:
    """Let the horizontal axis count: ticks at whole numbers only."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, steps=[1, 2, 5, 10], min_n_ticks=1))


def unit_of_time(longest_s: float) -> tuple[float, str]:
    """Return the unit that suits a time in seconds: how many seconds it has, and its name."""
    return (1.0, "s") if longest_s < 300 else (60.0, "min") if longest_s < 4 * 3600 else (3600.0, "h")


def span(values: np.ndarray) -> tuple[float, float]:
    """Return limits that hold all values, with a margin."""
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 1e-6
    return low - margin, high + margin


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    figure.set_dpi(DPI)
    canvas, buffer = FigureCanvasAgg(figure), BytesIO()
    canvas.print_png(buffer)
    _keep_layout(figure)
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """Return a figure as SVG, whose text is drawn as paths, so that it looks the same everywhere."""
    figure.set_dpi(DPI)  # of the parts that are drawn as points
    canvas, buffer = FigureCanvasSVG(figure), BytesIO()
    canvas.print_svg(buffer, metadata={"Date": None})
    _keep_layout(figure)
    return buffer.getvalue()


def _keep_layout(figure: Figure) -> None:
    """Have a drawn figure keep its layout, which takes as long as a drawing."""
    figure.set_layout_engine("none")


def data_uri(image: bytes, kind: str) -> str:
    """Return an image as an address that holds it.

    Args:
        image: its bytes.
        kind: "png" or "svg+xml".
    """
    return f"data:image/{kind};base64,{b64encode(image).decode()}"
