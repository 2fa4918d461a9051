"""The thread in which an engine works for clients."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from multiprocessing import Pipe

from executor.driver import Driver
from executor.serving.engine.clients import Clients, LiveTime
from executor.session import STEP_SIZES, Session, out_of_memory
from superinfer.lab.config.policy_faults import faults_named


class EngineThread:
    """Runs the driver of a session until it is stopped, or until something fails."""

    def __init__(self, session: Session, clients: Clients, policies: Mapping[str, str]) -> None:
        """`policies` are names for messages."""
        self.error: BaseException | None = None
        """What ended it before its time."""
        self.over, self._open = Pipe(duplex=False)
        """Can be read once it has ended."""
        self._clients, self._policies = clients, policies
        self._session = session
        self.clock = LiveTime(session.mover.poll, lambda: session.mover.busy, clients)
        self._driver: Driver = session.driver(clients, clients, self.clock)
        engine = session.engine
        engine.on_scheduled, engine.on_ended = clients.scheduled, clients.ended
        engine.text_ids = clients.text_ids
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End at the next step boundary; who has no answer by then gets none."""
        self._driver.stop()
        self._clients.ring()
        self._thread.join()

    # -- inside ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._session.enter_thread()
            with faults_named(self._policies), out_of_memory("running a step", STEP_SIZES):
                self._driver.run()
        except BaseException as error:  # the main thread raises it again
            self.error = error
        finally:
            self._open.close()
