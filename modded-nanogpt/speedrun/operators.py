"""a function of tensors -> an operator, which torch.compile takes whole and calls as it is.

As torch.library.custom_op, without its guard, which at the first call imports the compiler, also where nothing is
compiled: a second of every process that trains or scores on a CPU.
"""

from collections.abc import Callable
from typing import Any

import torch


def operator(name: str, function: Callable[..., Any], fake: Callable[..., Any], schema: str | None = None) -> Any:
    """`name`: namespace::name. `fake` has the arguments of `function` and returns what it does, without values."""
    torch.library.define(name, schema or torch.library.infer_schema(function, mutates_args=()))
    torch.library.impl(name, "default", function)
    torch.library.register_fake(name, fake)
    namespace, _, short = name.partition("::")
    return getattr(getattr(torch.ops, namespace), short).default
