# SPDX-License-Identifier: Apache-2.0
"""clients/gpu_frames.py, except what needs a GPU."""

import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest

import shmpool
from tests.conftest import MakePool, at_rest

gpu_frames = pytest.importorskip("clients.gpu_frames", reason="shmpool[cli] is not installed")
SIZE = 4096


class Later:
    """A device whose copies are made by a thread, after their start."""

    def __init__(self, rows: int, wrong: int | None = None) -> None:
        self.rows = np.zeros((rows, SIZE), "u1")
        self.wrong = wrong
        self.copies: list[threading.Thread] = []

    def copy(self, buf: shmpool.Buffer, row: int) -> Any:
        array = np.asarray(memoryview(buf))

        def run(array: Any = array) -> None:
            self.rows[row] = array if row != self.wrong else 255

        thread = threading.Thread(target=run)
        thread.start()
        self.copies.append(thread)
        return SimpleNamespace(query=lambda: not thread.is_alive(), synchronize=thread.join)

    def first_bytes(self, rows: int) -> list[int]:
        for thread in self.copies:
            thread.join()
        first: list[int] = self.rows[:rows, 0].tolist()
        return first


def test_frames_of_real_processes_arrive(make_pool: MakePool, eventually: Any) -> None:
    """Each frame arrives in its row, and each buffer is freed, with fewer buffers than frames."""
    pool = make_pool(buffer_size=SIZE, capacity=16)
    queue = pool.create_queue("frames", capacity=16)
    device = Later(300)
    with gpu_frames.cameras(queue, 2, 300, SIZE):
        gpu_frames.show(queue, device, 300)
    assert [number % 256 for number in range(300)] == device.rows[:, -1].tolist()
    device.copies.clear()
    eventually(lambda: pool.recover() is not None and at_rest(pool))


def test_a_frame_that_changes_is_found(make_pool: MakePool) -> None:
    """A frame that arrives otherwise than it was written is named."""
    pool = make_pool(buffer_size=SIZE, capacity=16)
    queue = pool.create_queue("frames", capacity=16)
    gpu_frames.camera(queue, 0, 1, 8, SIZE)
    with pytest.raises(click.ClickException, match=r"frames \[3\] did not arrive"):
        gpu_frames.show(queue, Later(8, wrong=3), 8)


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Speeds in GB/s, and the ratio that is promised."""
    assert pytest.approx(0.8) == gpu_frames.report([8.0, 4.0, 2.5, 2.0], 4 * 10**9)
    lines = capsys.readouterr().out.splitlines()
    assert 4 == len(lines)
    assert "registered              1.6 GB/s,  0.80 of torch's own" == lines[2]


def test_without_cuda(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch, or a GPU, or where the pool cannot be pinned, one line says so."""

    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(gpu_frames, "import_module", missing)
    with pytest.raises(click.ClickException, match="this needs torch, built with CUDA"):
        gpu_frames.cuda()
    torch = SimpleNamespace(__version__="2.0", cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(gpu_frames, "import_module", lambda name: torch)
    with pytest.raises(click.ClickException, match=r"torch 2.0 finds no NVIDIA GPU"):
        gpu_frames.cuda()
    monkeypatch.setattr("shmpool.pinning.DRIVER", "libno-such-driver.so.1")
    with pytest.raises(click.ClickException, match="0 of 0 bytes are registered: the CUDA driver"):
        gpu_frames.pin(make_pool())


def test_help() -> None:
    """--help works everywhere."""
    done = subprocess.run(
        [sys.executable, "-m", "clients.gpu_frames", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Copy frames of worker processes to a GPU" in done.stdout
