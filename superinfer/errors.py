"""The one exception tree. Command lines print `str(error)` and exit with `error.exit_code`."""

from __future__ import annotations

from collections.abc import Sequence


class SuperInferError(Exception):
    """Base of every error that a user can meet."""

    exit_code = 1


class InputError(SuperInferError):
    """Bad input: a file, a line, a field, and what was expected there."""

    exit_code = 2

    def __init__(self, expected: str, *, file: str = "", line: int = 0, field: str = "") -> None:
        place = f"{file}:{line}" if file and line else file or (f"line {line}" if line else "")
        super().__init__(": ".join(part for part in (place, field, expected) if part))
        self.file, self.line, self.field, self.expected = file, line, field, expected

    @property
    def in_file(self) -> str:
        """The message without the file, for a reader who knows which."""
        return str(InputError(self.expected, line=self.line, field=self.field))


class ConfigError(SuperInferError):
    """A setting, a policy name or a combination of them that cannot run."""

    exit_code = 2


class PlanError(SuperInferError):
    """A scheduler asked for something that the engine refuses: a bug in that scheduler."""


class PolicyError(SuperInferError):
    """A policy from outside this package raised something, or holds what it may not."""


class StuckError(SuperInferError):
    """Requests are left, nothing runs and nothing will ever wake the engine."""


def stuck_error(request_ids: Sequence[str]) -> StuckError:
    """What a driver says of the requests that are left."""
    return StuckError(
        f"{len(request_ids)} requests can never run (first: {request_ids[0]}): the scheduler plans "
        "nothing, and nothing is to come"
    )
