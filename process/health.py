"""Health of the process over HTTP: /livez and /readyz, and /ping and /ready as Linkerd has them.

Sources: kubernetes.io, "Kubernetes API health endpoints"; Linkerd's admin server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

Check = Callable[[], str | None]
"""Answers None where all is well, or else what is wrong."""


class Health:
    """What the process knows about itself; the server's shell and the checks write it."""

    def __init__(self, checks: Mapping[str, Check] | None = None) -> None:
        """``checks`` are asked at each probe, by the name that ``?verbose`` shows."""
        self.serving = False
        """True once the listening sockets accept connections."""
        self.draining = False
        """True from the signal to stop on: not ready any more, though still answering."""
        self._checks = {
            "serving": lambda: None if self.serving else "not listening yet",
            "shutdown": lambda: "shutting down" if self.draining else None,
            **(checks or {}),
        }

    def report(self) -> dict[str, str | None]:
        """The result of every check."""
        return {name: check() for name, check in self._checks.items()}


def _readyz(health: Health, *, verbose: bool) -> Response:
    report = health.report()
    ready = not any(report.values())
    if ready and not verbose:
        return PlainTextResponse("ok\n")
    lines = [f"[-]{name} failed: {why}" if why else f"[+]{name} ok" for name, why in report.items()]
    lines.append(f"readyz check {'passed' if ready else 'failed'}")
    return PlainTextResponse("\n".join(lines) + "\n", status_code=200 if ready else 500)


def kubernetes_routes(health: Health) -> APIRouter:
    """``/livez`` and ``/readyz`` (both with ``?verbose``): 200, or 500 with what is wrong."""
    router = APIRouter(include_in_schema=False)

    @router.get("/livez")
    async def livez(request: Request) -> Response:
        # Alive is who answers: only a stuck event loop is cured by a restart.
        verbose = "verbose" in request.query_params
        return PlainTextResponse("[+]ping ok\nlivez check passed\n" if verbose else "ok\n")

    @router.get("/readyz")
    async def readyz(request: Request) -> Response:
        return _readyz(health, verbose="verbose" in request.query_params)

    return router


def linkerd_routes(health: Health) -> APIRouter:
    """``/ping`` and ``/ready``, word for word what Linkerd's probes get."""
    router = APIRouter(include_in_schema=False)

    @router.get("/ping")
    async def ping() -> Response:
        return PlainTextResponse("pong\n")

    @router.get("/ready")
    async def ready() -> Response:
        if any(health.report().values()):
            return PlainTextResponse("not ready\n", status_code=500)
        return PlainTextResponse("ok\n")

    return router
