"""A function that the operator names in a variable: `package.module:function`, a KMS or an HSM of theirs.

Never calls it. Next: `keys/master_key.py`, `transparency/head_signer.py` (who ask).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

from sluicegate.schemas.errors import Terminal

_NAME = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def function_of(variable: str, text: str) -> Callable[..., object]:
    """The function. Raises `Terminal` for one that cannot be had."""
    found = _NAME.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError("another form")
        function: Callable[..., object] = getattr(importlib.import_module(found[1]), found[2])
    except Exception as error:
        raise no_function(variable, text) from error
    return function


def no_function(variable: str, text: str) -> Terminal:
    """What is said of one that cannot be had, or does not begin."""
    return Terminal(f"`{variable}` is `{text[:80]}`, name a function as package.module:function")
