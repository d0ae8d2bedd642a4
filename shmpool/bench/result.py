# SPDX-License-Identifier: Apache-2.0
"""The record of a benchmark, stored as JSON."""

import json
import os
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 2

Run = dict[str, Any]  # the figures of one run, by name


@dataclass
class Row:
    """One transport in one cell."""

    transport: str
    library: str
    shape: str
    many: bool  # many messages a call
    runs: list[Run | None] = field(default_factory=list)  # None: the run gave no figures
    errors: list[str] = field(default_factory=list)
    unsupported: str = ""  # why the transport cannot do it

    def figures(self, name: str) -> dict[int, float]:
        """By run number."""
        return {n: run[name] for n, run in enumerate(self.runs) if run and name in run}

    def total(self, name: str) -> int:
        return sum(run.get(name, 0) for run in self.runs if run)


@dataclass
class CellResult:
    """One cell."""

    scenario: str
    key: str
    conditions: dict[str, Any]
    rows: list[Row]
    line_latency_ns: list[float] = field(default_factory=list)
    background_load: list[float] = field(default_factory=list)  # share of the cores, 0 to 1
    harness_rate: float = 0.0  # single messages a second without any library; 0: not measured


@dataclass
class Result:
    started: str
    options: dict[str, Any]
    machine: dict[str, str]
    versions: dict[str, str]  # by library; "" if it comes with Python
    missing: dict[str, str]  # why, by library
    cells: list[CellResult] = field(default_factory=list)
    complete: bool = False
    format: int = FORMAT

    @property
    def name(self) -> str:
        """What the machine is called."""
        return self.machine.get("name") or self.machine["processor"]

    @property
    def file_name(self) -> str:
        """The machine's name as part of a file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "machine"

    def of(self, scenario: str) -> list[CellResult]:
        return [cell for cell in self.cells if cell.scenario == scenario]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Raises ValueError if the file holds something else, or another format."""
        try:
            raw = json.loads(path.read_text())
            if raw["format"] != FORMAT:
                raise ValueError(f"its format is {raw['format']}; this version reads {FORMAT}")
            cells = [
                CellResult(**{**cell, "rows": [Row(**row) for row in cell["rows"]]})
                for cell in raw.pop("cells")
            ]
            return cls(**raw, cells=cells)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no results of this benchmark: {error}") from None


def machine() -> dict[str, str]:
    """What is known of this machine."""
    text = Path("/proc/cpuinfo").read_text()
    models = re.findall(r"^model name\s*: (.+)", text, re.MULTILINE)
    number = dict(re.findall(r"^(cpu family|model)\s*: (\d+)", text, re.MULTILINE))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": f"{(models or [platform.machine()])[0]}, {os.cpu_count()} cores",
        "family": ", ".join(f"{what} {n}" for what, n in number.items()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "virtual": "yes" if "hypervisor" in text else "no",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
    }
