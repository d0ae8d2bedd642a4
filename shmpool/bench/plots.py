# SPDX-License-Identifier: Apache-2.0
"""Plots of throughput, scaling and latency, as SVG text. Robustness has a table only."""

import io
from collections.abc import Callable, Iterator
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


def plots(*results: Result) -> dict[str, str]:
    """SVG by name. Each transport looks the same on every machine."""
    rows = [row for result in results for cell in result.cells for row in cell.rows]
    transports = list(dict.fromkeys(row.transport for row in rows))
    return {
        name: svg
        for result in results
        for name, svg in _plots(result, transports, result.name if len(results) > 1 else "")
    }


def _plots(result: Result, transports: list[str], machine: str) -> Iterator[tuple[str, str]]:
    prefix, on = (f"{result.file_name}-", f", {machine}") if machine else ("", "")
    for producers in dict.fromkeys(c.conditions["producers"] for c in result.of("throughput")):
        cells = [c for c in result.of("throughput") if c.conditions["producers"] == producers]
        title = f"{producers} to {cells[0].conditions['consumers']}: messages a second{on}"
        yield f"{prefix}throughput-{producers}", _svg((9, 6), _throughput, cells, transports, title)
    if cells := result.of("scaling"):
        title = f"Messages of {size_text(cells[0].conditions['size'])} a second{on}"
        yield f"{prefix}scaling", _svg((9, 6), _scaling, cells, transports, title)
    if cells := result.of("latency"):
        size = (5 * len(cells), 6)
        yield f"{prefix}latency", _svg(size, _latency, cells, transports, machine)


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


def _rates(
    axes: "Axes", cells: list[CellResult], transports: list[str], condition: str
) -> list[int]:
    """Draws a line for each transport over that condition, and returns its values."""
    for transport in transports:
        points = [
            (cell.conditions[condition], found.median)
            for cell in cells
            for row in cell.rows
            if row.transport == transport and (found := spread(row, "rate"))
        ]
        if points:
            axes.loglog(*zip(*points, strict=True), **_style(transport, transports))
    return sorted({cell.conditions[condition] for cell in cells})


def _throughput(
    figure: "Figure", cells: list[CellResult], transports: list[str], title: str
) -> None:
    axes: Axes = figure.subplots()
    sizes = _rates(axes, cells, transports, "size")
    axes.set_xticks(sizes, [size_text(size) for size in sizes])
    _finish(figure, axes, title)


def _scaling(figure: "Figure", cells: list[CellResult], transports: list[str], title: str) -> None:
    axes: Axes = figure.subplots()
    pairs = _rates(axes, cells, transports, "producers")
    axes.set_xticks(pairs, [f"{n}" for n in pairs])
    axes.set_xlabel("pairs of processes")
    _finish(figure, axes, title)


def _finish(figure: "Figure", axes: "Axes", title: str) -> None:
    axes.set_xticks([], minor=True)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")


def _latency(
    figure: "Figure", cells: list[CellResult], transports: list[str], machine: str
) -> None:
    columns = figure.subplots(1, len(cells), sharey=True, squeeze=False)[0]
    for axes, cell in zip(columns, cells, strict=True):
        for row in cell.rows:
            values = [s.median for name in PERCENTILES if (s := spread(row, name))]
            if len(values) == len(PERCENTILES):
                axes.semilogy(PERCENTILES, values, **_style(row.transport, transports))
        axes.set_title(", ".join(filter(None, [cell.key, machine])))
        axes.grid(alpha=0.3)
    columns[0].set_ylabel("round trip, us")
    handles = {
        label: handle
        for axes in columns
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize="small")
