"""What a command line says of a mistake, one line on standard error, and its exit code."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final

from superinfer.errors import SuperInferError
from superinfer.lab.cli.terminal import printable
from superinfer.settings import shown_value

INTERRUPTED = 130
"""Exit code of what Ctrl-C has ended."""


def run_program(command: Callable[..., Any], program: str) -> int:
    """Run the command line of a program, which Typer made, and return the exit code; a mistake of
    the user's is told in one line.
    """
    import typer

    try:
        code = int(command(prog_name=program, standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SuperInferError as error:
        code = complain(str(error), error.exit_code)
    except (OSError, MemoryError) as error:
        code = complain(reason_of(error), 1)
        close_stdout()
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        code = complain_of_usage(error, program)
    if code == INTERRUPTED:  # which Typer makes of Ctrl-C, or a command that had something to write
        print("interrupted", file=sys.stderr)
    return code


def complain(message: str, code: int) -> int:
    """Print the message as one line; returns the exit code. Who looks for a fault of a policy asks
    for Python's traceback before it, by SUPERINFER_TRACEBACK=1.
    """
    if os.environ.get("SUPERINFER_TRACEBACK") and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def complain_of_usage(error: Exception, program: str) -> int:
    """What Typer found wrong with the command line; without arguments it gives the help text."""
    message = error.format_message()  # type: ignore[attr-defined]
    if "\n" in message:
        print(message, file=sys.stderr)
        return 2
    theirs = message.replace(": Value error, ", ": ").rstrip(".")  # pydantic's words, through Typer
    message = _of_number(error) or theirs
    context = getattr(error, "ctx", None)
    where = getattr(context, "command_path", program)
    return complain(f"{message}{_arms(context, message)} (see {where} --help)", 2)


_KINDS: Final = {"int": "an integer", "float": "a number"}
_BOUNDS: Final = {
    "greater_than_equal": (">=", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("<=", "le"),
    "less_than": ("<", "lt"),
}
"""How pydantic, through Typer, calls a bound that a number is beyond."""


def _of_number(error: Exception) -> str:
    """What is wrong with an option that is no number, or beyond its bounds, in the words in which
    settings are refused; empty for any other mistake.
    """
    option: Any = getattr(error, "param", None)
    cause: Any = error.__cause__
    if option is None or not hasattr(cause, "errors"):
        return ""
    fault = cause.errors()[0]
    kind, given = fault["type"], fault["input"]
    if kind in _BOUNDS:
        sign, key = _BOUNDS[kind]
        bound = fault["ctx"][key]
        expected = f"{_KINDS[type(bound).__name__]} {sign} {bound:.12g}"
        got = shown_value(given).strip("'")
    elif kind.partition("_")[0] in _KINDS:
        expected, got = _KINDS[kind.partition("_")[0]], shown_value(given)
    else:
        return ""
    # A share where per cent are expected is the likeliest mistake.
    unit = " (in %)" if "in %" in (getattr(option, "help", None) or "") else ""
    return f"{max(option.opts, key=len)}: expected {expected}{unit}, got {got}"


def _arms(context: Any, message: str) -> str:
    """Where configurations belong that stand behind the trace of a command that compares them."""
    command = getattr(context, "command", None)
    known = {name for each in getattr(command, "params", ()) for name in each.opts}
    if "--arm" not in known or not re.search(r"extra argument.*\.toml\b", message):
        return ""
    return ": each configuration to compare goes behind an --arm of its own"


def reason_of(error: OSError | MemoryError) -> str:
    """What the system refused, with the file if there is one."""
    if not isinstance(error, OSError):
        return ": ".join(part for part in ("out of memory", str(error)) if part)
    return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)


def first_line(error: Exception) -> str:
    """What a library says went wrong, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def close_stdout() -> None:
    """Keep Python from trying to write the rest once more when it exits."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
