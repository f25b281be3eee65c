"""The one thread that talks to the API server, for all of the agent's others.

The connection is asyncio (`kubeapi`), the agent is threads: what it asks crosses over here, with a
limit of time. Watches live in the loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

from kubeapi.client import ApiServer, ApiServerError
from process.threads import NoMoreThreads

_T = TypeVar("_T")
_SPARE_SECONDS = 1.0
"""For crossing over, beyond what the request itself may take."""

_log = structlog.get_logger("cni_plugin.pods.api_thread")


class ApiThread:
    """Requests to one API server from any thread; `start` before the first, `stop` after the last.

    It works from the start, whether or not the API server is there.
    """

    def __init__(self, api: ApiServer) -> None:
        """Nothing is sent yet."""
        self.api = api
        """For what runs in the loop; other threads `ask`."""
        self._works: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = []
        self._thread = threading.Thread(target=self._run, name="api-server", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._stopping = asyncio.Event()

    @property
    def name(self) -> str:
        """Who is asked, for messages."""
        return f"the API server at {self.api.address}"

    def keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``work`` (a watch) in the loop until `stop`; to be said before `start`."""
        self._works.append((name, work))

    def start(self) -> None:
        """Begin; the API server need not be there.

        Raises:
            NoMoreThreads: there may be no more threads or descriptors.
        """
        try:
            self._loop = asyncio.new_event_loop()
            try:
                self._thread.start()
            except RuntimeError:
                self._loop.close()
                raise
        except (OSError, RuntimeError) as error:
            raise NoMoreThreads(
                f"cannot start the thread that asks {self.name}: {error}; raise the limits of "
                "processes (pids) and open files of the agent's container"
            ) from error

    def stop(self) -> None:
        """End the watches and close all connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def is_alive(self) -> bool:
        """Whether requests are sent at all."""
        return self._thread.is_alive()

    def ask(self, request: Coroutine[Any, Any, _T], seconds: float) -> _T:
        """Run ``request`` in the loop and wait for it, ``seconds`` at most.

        Raises:
            ApiServerError: what it raised, or that it took too long.
        """
        future = asyncio.run_coroutine_threadsafe(request, self._loop)
        try:
            return future.result(seconds + _SPARE_SECONDS)
        except TimeoutError as error:
            future.cancel()
            raise ApiServerError(f"{self.name} took too long to answer") from error

    # What follows is for the loop's thread.

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        tasks = [asyncio.create_task(_logged(*work)) for work in self._works]
        await self._stopping.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.api.close()


async def _logged(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await work()
    except Exception:  # noqa: BLE001 - a bug in a watch must not end the requests
        _log.exception("a watch ended; what it would tell is asked for one by one", watch=name)
