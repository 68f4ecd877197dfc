"""a function of tensors -> an operator, which torch.compile takes whole and calls as it is.

It does what torch.library.custom_op does, without that function's guard against being traced. The guard imports the
compiler at the first call, which takes a second or two of every process that trains or scores on a CPU, where nothing
is compiled. Nothing traces these functions: compiled code calls them through torch's dispatcher, as it calls its own
operators.
"""

from collections.abc import Callable
from typing import Any

import torch


def operator(name: str, function: Callable[..., Any], fake: Callable[..., Any], schema: str | None = None) -> Any:
    """The operator `speedrun::name`, without side effects, to be called as `function` is.

    `fake`: with the arguments of `function`, returns tensors of the same shapes and dtypes without their values.
    `schema`: where the annotations of `function` do not give it, in torch's own notation.
    """
    torch.library.define(f"speedrun::{name}", schema or torch.library.infer_schema(function, mutates_args=()))
    torch.library.impl(f"speedrun::{name}", "default", function)
    torch.library.register_fake(f"speedrun::{name}", fake)
    return getattr(torch.ops.speedrun, name).default
