"""A chart in its two forms: a static SVG that stands alone, and what Plotly draws in its place."""

import html
import io
import re
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from dpfinjax.report import palette

_LABEL_WIDTH = 22


class Chart(NamedTuple):
    """One chart.

    Attributes:
      key: its name within the page, letters only.
      finding: what it shows in a sentence, for those who do not see it.
      note: how to read it.
      svg: the static form.
      spec: "data" and "layout" of Plotly, colours as "@name". A trace's "meta" tells the page's
        script when to show it: "model", the name of the only model in it; "models", one name a
        point; "attack", the attack whose curve it is; "strongest", whether that is the model's
        strongest; "bound", that it is a proven bound. Spec's "row_height" is what a model adds to
        the height, in pixels.
    """

    key: str
    finding: str
    note: str
    svg: str
    spec: dict[str, Any]


def svg(key: str, finding: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """Draws a figure as an SVG element, its colours as custom properties of the page.

    Text stays text, in the page's font. The same drawing gives the same characters.

    Args:
      key: prefix of the ids in it, which are then unique within the page.
      finding: its description.
      size: width and height in inches.
      draw: draws on an empty figure.

    Returns:
      The element.
    """
    with matplotlib.rc_context(_settings()):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].strip()
    # Its style rule for "*" would hold for the whole page, which has the rule for static charts.
    drawn = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", drawn, count=1, flags=re.S)
    drawn = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{key}-", drawn)
    opening = f'<svg role="img" aria-label="{html.escape(finding)}" '
    drawn = re.sub(
        r'<svg .*?(viewBox="[^"]*").*?>', lambda m: f"{opening}{m[1]}>", drawn, count=1, flags=re.S
    )
    return palette.to_properties(drawn)


def static_text(text: str, width: int = _LABEL_WIDTH) -> str:
    """Returns text for Matplotlib, wrapped."""
    return "\n".join(_wrapped(text, width))


def live_text(text: str, width: int = _LABEL_WIDTH) -> str:
    """Returns text for Plotly, wrapped, with no angle bracket taken for a tag."""
    return "<br>".join(html.escape(line, quote=False) for line in _wrapped(text, width))


def hover(*lines: str) -> str:
    """Returns what appears beside the pointer: a line each, the first one bold."""
    first, *rest = (html.escape(line, quote=False) for line in lines if line)
    return "<br>".join([f"<b>{first}</b>", *rest])


def clean(axis: Axes) -> None:
    """Leaves of an axis' frame what carries numbers."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    axis.grid(color=palette.placeholder("grid"), linewidth=0.7)


def layout(**changes: Any) -> dict[str, Any]:
    """Returns a layout that all interactive charts share, with changes."""
    font = {"family": "system-ui, 'Segoe UI', 'Liberation Sans', sans-serif", "size": 13}
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {**font, "color": "@ink"},
        "hoverlabel": {
            "bgcolor": "@paper",
            "bordercolor": "@edge",
            "font": {**font, "color": "@ink"},
            "align": "left",
        },
        "margin": {"l": 56, "r": 12, "t": 12, "b": 48},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": -0.2,
            "yanchor": "top",
            "itemwidth": 44,
            "itemclick": False,
            "itemdoubleclick": False,
        },
        "dragmode": False,
        "hovermode": "closest",
        **changes,
    }


def live_axis(title: str, **changes: Any) -> dict[str, Any]:
    """Returns an axis of an interactive chart."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
        "fixedrange": True,
        "gridcolor": "@grid",
        "linecolor": "@edge",
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "@edge",
        "ticklabeloverflow": "allow",
        "automargin": True,
        **changes,
    }


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of a label, control characters left out."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return textwrap.wrap(printable, width) or [""]


def _settings() -> Any:
    """What Matplotlib draws with; a dollar sign is no mathematics."""
    ink, edge = palette.placeholder("ink"), palette.placeholder("edge")
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "dpfinjax",
        "font.size": 10,
        "text.color": ink,
        "text.parse_math": False,
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "axes.titlesize": 10,
        "axes.edgecolor": edge,
        "xtick.color": edge,
        "ytick.color": edge,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "legend.frameon": False,
        "legend.fontsize": 9,
    }
