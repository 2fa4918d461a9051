"""Set-up of the tests of the executor."""

from __future__ import annotations

import os

# Tests run side by side: with a thread for each core in every one of them torch is several times
# slower. It reads this when it is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
