# SPDX-License-Identifier: Apache-2.0
"""clients.camera: each reader sees the newest frame, whole, and knows which it missed."""

import re

import numpy as np
import pytest

from clients.camera import HEIGHT, READERS, WIDTH, draw, find, place
from tests.programs import Program

pytestmark = pytest.mark.timeout(600)  # however busy the machine is


def test_frames() -> None:
    """Each reader's frames and those that it missed are all frames; none is wrong."""
    code, out, err = Program("camera", "--frames", 60, "--rate", 200).finish()
    assert (0, "") == (code, err), out
    for name in READERS:
        found = re.search(rf"{name} +│ +(\d+) +│ +(\d+) +│ .* │ +0 +│", out)
        assert found, out
        assert 60 == int(found[1]) + int(found[2])


def test_interrupted() -> None:
    """Ctrl-C ends the program, its camera and its readers, and leaves no pool."""
    program = Program("camera", "--frames", 1_000_000)
    program.interrupt()
    code, _, err = program.finish()
    assert (1, "\nAborted!\n") == (code, err)


def test_refused() -> None:
    """A number that is not allowed is named, with what is."""
    code, _, err = Program("camera", "--rate", 0).finish()
    assert 2 == code
    assert "0.0 is not in the range 1<=x<=1000" in err


@pytest.mark.parametrize("number", [0, 1, 12345])
def test_find(number: int) -> None:
    """What a reader finds in a frame is where the camera drew it."""
    frame = np.zeros((HEIGHT, WIDTH), np.uint8)
    draw(frame, number)
    assert place(number) == find(frame)
