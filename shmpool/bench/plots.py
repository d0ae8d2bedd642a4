# SPDX-License-Identifier: Apache-2.0
"""Results as plots, with matplotlib: SVG texts by name."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .plan import size_text
from .result import CellResult, Result, Row
from .summary import OURS, clean, spread
from .tables import verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = 20  # of the map tab20
MARKERS = "osv^<>DPX*hd"
GOOD, BAD, PARTLY, NONE = "#b7e1b0", "#f2b0a5", "#f7e3a1", "#e6e6e6"
PERCENTILES = ("p50", "p99", "p99.9")


def plots(result: Result) -> dict[str, str]:
    """SVG by name. ImportError without matplotlib."""
    found, ways = {}, _ways(result.cells)
    for producers in dict.fromkeys(c.conditions["producers"] for c in result.of("throughput")):
        cells = [c for c in result.of("throughput") if c.conditions["producers"] == producers]
        title = f"{producers} to {cells[0].conditions['consumers']}: messages a second"
        found[f"throughput-{producers}"] = _svg((9, 6), _throughput, cells, ways, title)
    if cells := result.of("latency"):
        found["latency"] = _svg((5 * len(cells), 6), _latency, cells, ways)
    if cells := result.of("robustness"):
        height = 1.5 + 0.34 * max(len(cell.rows) for cell in cells)
        found["robustness"] = _svg((3.5 + 1.6 * len(cells), height), _robustness, cells)
    return found


def _svg(size: tuple[float, float], draw: Callable[..., None], *arguments: Any) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text stays text, and the same results give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": OURS}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, *arguments)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _style(way: str, ways: list[str]) -> dict[str, Any]:
    """Ours are thick; each way has its own colour and marker."""
    import matplotlib as mpl

    at = ways.index(way)
    ours = way.startswith(OURS)
    return {
        "color": mpl.colormaps["tab20"](at % COLOURS),
        "marker": MARKERS[at % len(MARKERS)],
        "linestyle": "-" if at < COLOURS else "--",
        "linewidth": 2.5 if ours else 1,
        "markersize": 7 if ours else 5,
        "zorder": 3 if ours else 2,
    }


def _ways(cells: list[CellResult]) -> list[str]:
    return list(dict.fromkeys(row.way for cell in cells for row in cell.rows))


def _throughput(figure: "Figure", cells: list[CellResult], ways: list[str], title: str) -> None:
    axes: Axes = figure.subplots()
    for way in ways:
        points = []
        for cell in cells:
            row = next((row for row in cell.rows if row.way == way), None)
            found = spread(row, "rate") if row else None
            if found:
                points.append((cell.conditions["size"], found.median))
        if points:
            axes.loglog(*zip(*points, strict=True), label=way, **_style(way, ways))
    sizes = sorted({cell.conditions["size"] for cell in cells})
    axes.set_xticks(sizes, [size_text(size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")


def _latency(figure: "Figure", cells: list[CellResult], ways: list[str]) -> None:
    columns = figure.subplots(1, len(cells), sharey=True, squeeze=False)[0]
    for axes, cell in zip(columns, cells, strict=True):
        for row in cell.rows:
            found = [spread(row, name) for name in PERCENTILES]
            values = [s.median for s in found if s]
            if len(values) == len(PERCENTILES):
                axes.semilogy(PERCENTILES, values, label=row.way, **_style(row.way, ways))
        axes.set_title(cell.key)
        axes.grid(alpha=0.3)
    columns[0].set_ylabel("round trip, us")
    handles = {
        label: handle
        for axes in columns
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize="small")


def _robustness(figure: "Figure", cells: list[CellResult]) -> None:
    axes: Axes = figure.subplots()
    ways = _ways(cells)
    for x, cell in enumerate(cells):
        rows = {row.way: row for row in cell.rows}
        for y, way in enumerate(ways):
            text, colour = _square(rows.get(way))
            axes.add_patch(_rectangle(x, y, colour))
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=7)
    axes.set_xlim(0, len(cells))
    axes.set_ylim(len(ways), 0)
    headings = [cell.key.replace(" of a ", "\n").replace(", ", "\n") for cell in cells]
    axes.set_xticks([x + 0.5 for x in range(len(cells))], headings, fontsize=8)
    axes.xaxis.tick_top()
    axes.set_yticks([y + 0.5 for y in range(len(ways))], ways, fontsize=8)
    axes.tick_params(length=0)


def _rectangle(x: int, y: int, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white")


def _square(row: Row | None) -> tuple[str, str]:
    run = next((run for run in row.runs if run), None) if row else None
    if row is None or run is None:
        return ("cannot" if row and row.unsupported else "-"), NONE
    if clean(run):
        return "clean", GOOD
    first = verdict(row)[0]
    short = "hung" if run["hung"] else first[: first.index(" of ")] if " of " in first else first
    return short, BAD if run["hung"] else PARTLY
