"""head outputs -> capped logits: the constants of the record, and the gate as torch computes it.

A softcap like that of Gemma 2 (arXiv 2408.00118), which is 30 tanh(z / 30), in the record's asymmetric form.
"""

import torch
from torch import Tensor

SOFTCAP, SOFTCAP_SHIFT, SOFTCAP_WIDTH = 23.0, 5.0, 7.5  # logits = 23 sigmoid((z + 5) / 7.5), record #181


def softcap_gate(z: Tensor) -> Tensor:
    """Head output -> logits / SOFTCAP in (0, 1), at least float32."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return z.add(SOFTCAP_SHIFT).div_(SOFTCAP_WIDTH).sigmoid_()
