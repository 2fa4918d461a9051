"""Where `superinfer-sim` starts: Ctrl-C is one line even while the rest is still being imported."""

from __future__ import annotations

import contextlib
import os
import signal


def main() -> None:
    """Import the command line and run it; does not return."""
    # A signal that is ignored, as in the background of a shell, stays so.
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if listens:
        signal.signal(signal.SIGINT, _leave)
    # One run is one thread; a thread of BLAS beside it would spin for nothing.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from sim.cli.app import main as run

    try:
        if listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:  # between there and here
        _leave()


def _leave(*_: object) -> None:
    """End at once. An exception could get lost in an import, and there is nothing to tidy up."""
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
