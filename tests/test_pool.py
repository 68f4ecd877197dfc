"""Evaluators that die, hang or cannot start: who is blamed, who is scored again, and when it ends. Real actors."""

import asyncio
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import ROOT, Program

pytestmark = pytest.mark.ray


class Flaky:
    """An evaluator of one-byte checkpoints, each of which says what it does to who scores it."""

    def __init__(self, experiment, device):
        if experiment == "broken":
            raise RuntimeError("no device")
        self.scored = 0

    def ready(self):
        return os.getpid()

    def score(self, data, header):
        if header.step < 0:  # poison
            os._exit(1)
        time.sleep(0.05)
        self.scored += 1
        return np.array([header.step], np.float32)

    def validate(self, data, header, chunk):
        time.sleep(0.05)
        return float(chunk)
