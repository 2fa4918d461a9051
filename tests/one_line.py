"""Mistakes of a user, each in one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from superinfer.errors import SuperInferError


def error_of(call: Callable[[], object], kind: type[SuperInferError] = SuperInferError) -> str:
    """The one line with which a call ends."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert caught.value.exit_code == 2 and len(message.splitlines()) == 1
    return message
