# SPDX-License-Identifier: Apache-2.0
"""Plots of throughput and latency, as SVG text. Robustness has a table only."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .plan import size_text
from .result import CellResult, Result
from .summary import OURS, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = 20  # of matplotlib's colour map tab20
MARKERS = "osv^<>DPX*hd"
PERCENTILES = ("p50", "p99", "p99.9")


def plots(result: Result) -> dict[str, str]:
    """SVG by name."""
    rows = [row for cell in result.cells for row in cell.rows]
    transports = list(dict.fromkeys(row.transport for row in rows))
    found = {}
    for producers in dict.fromkeys(c.conditions["producers"] for c in result.of("throughput")):
        cells = [c for c in result.of("throughput") if c.conditions["producers"] == producers]
        title = f"{producers} to {cells[0].conditions['consumers']}: messages a second"
        found[f"throughput-{producers}"] = _svg((9, 6), _throughput, cells, transports, title)
    if cells := result.of("latency"):
        found["latency"] = _svg((5 * len(cells), 6), _latency, cells, transports)
    return found


def _svg(size: tuple[float, float], draw: Callable[..., None], *arguments: Any) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text stays text, and equal results give equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": OURS}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, *arguments)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _style(transport: str, transports: list[str]) -> dict[str, Any]:
    """Each transport has its own colour and marker; the lines of ours are thick."""
    import matplotlib as mpl

    at = transports.index(transport)
    ours = transport.startswith(OURS)
    return {
        "label": transport,
        "color": mpl.colormaps["tab20"](at % COLOURS),
        "marker": MARKERS[at % len(MARKERS)],
        "linestyle": "-" if at < COLOURS else "--",
        "linewidth": 2.5 if ours else 1,
        "markersize": 7 if ours else 5,
        "zorder": 3 if ours else 2,
    }


def _throughput(
    figure: "Figure", cells: list[CellResult], transports: list[str], title: str
) -> None:
    axes: Axes = figure.subplots()
    for transport in transports:
        points = [
            (cell.conditions["size"], found.median)
            for cell in cells
            for row in cell.rows
            if row.transport == transport and (found := spread(row, "rate"))
        ]
        if points:
            axes.loglog(*zip(*points, strict=True), **_style(transport, transports))
    sizes = sorted({cell.conditions["size"] for cell in cells})
    axes.set_xticks(sizes, [size_text(size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")


def _latency(figure: "Figure", cells: list[CellResult], transports: list[str]) -> None:
    columns = figure.subplots(1, len(cells), sharey=True, squeeze=False)[0]
    for axes, cell in zip(columns, cells, strict=True):
        for row in cell.rows:
            values = [s.median for name in PERCENTILES if (s := spread(row, name))]
            if len(values) == len(PERCENTILES):
                axes.semilogy(PERCENTILES, values, **_style(row.transport, transports))
        axes.set_title(cell.key)
        axes.grid(alpha=0.3)
    columns[0].set_ylabel("round trip, us")
    handles = {
        label: handle
        for axes in columns
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize="small")
