"""`typing.override`, which Python has from 3.12 on, without typing_extensions, which takes 3 ms to import."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])

if sys.version_info >= (3, 12):
    from typing import override
else:

    def override(method: Method) -> Method:
        """Marks a method that a base class describes: its docstring is that of the base."""
        method.__override__ = True  # type: ignore[attr-defined]
        return method


__all__ = ["override"]
