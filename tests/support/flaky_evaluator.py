"""an evaluator that is broken in a known way, for test_evaluator_pool.py: Ray's workers import it by name."""

import os
import time

import numpy as np

POISON = 666
"""The step whose checkpoint ends who scores it."""


class Flaky:
    """Its losses are the step and its process id. `pair`: "broken" for one that cannot start."""

    library = None

    def __init__(self, pair, device):
        if pair == "broken":
            raise RuntimeError("no device")

    def ready(self):
        return os.getpid()

    def score(self, data, header):
        time.sleep(0.05)
        if header.step == POISON:
            os._exit(1)
        return np.array([header.step, os.getpid()], np.float32)

    def validate(self, data, header, chunk):
        time.sleep(0.05)
        return float(chunk)


class WithLibrary(Flaky):
    """Has loaded FlashAttention-3, from the folder `pair`, which stands for the hub's repository."""

    def __init__(self, pair, device):
        from speedrun.kernels import flash_attention

        os.environ["LOCAL_KERNELS"] = f"{flash_attention.HUB_REPOSITORY}={pair}"
        os.environ[flash_attention.REVISION_VARIABLE] = "0" * 40
        flash_attention.flash3()
        self.library = flash_attention.loaded_library()
