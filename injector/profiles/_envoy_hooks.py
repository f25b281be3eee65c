"""The life of the Envoy container: waiting for it, and draining it, without a program of ours."""

from __future__ import annotations

from injector.core.model import BuildInput, Object
from injector.profiles.common import duration


def lifecycle(given: BuildInput) -> Object:
    """``preStop`` drains; ``postStart``, which holds up the containers behind, awaits readiness."""
    proxy = given.values.proxy
    hooks: Object = {"preStop": _bash(_drain_script(given))}
    if proxy.await_ and not proxy.native_sidecar:
        hooks["postStart"] = _bash(_AWAIT.format(port=proxy.ports.admin))
    return hooks


def _bash(script: str) -> Object:
    return {"exec": {"command": ["/bin/bash", "-c", script]}}


_ENDING = ("Never", "OnFailure")
# The image has bash and no HTTP client; bash can speak enough HTTP by itself.
_AWAIT = """\
for _ in {{1..1200}}; do
  if exec 3<>/dev/tcp/127.0.0.1/{port}; then
    printf 'GET /ready HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n' >&3
    read -r _ status _ <&3
    exec 3>&-
    [ "$status" = 200 ] && exit 0
  fi 2>/dev/null
  sleep 0.1
done
exit 1
"""
_DRAIN = """\
exec 3<>/dev/tcp/127.0.0.1/{port}
printf 'POST /drain_listeners?graceful&skip_exit&inboundonly HTTP/1.1\\r\\n' >&3
printf 'Host: localhost\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n' >&3
cat <&3
"""
_STAY = "exec sleep {seconds}\n"
"""The pod is being deleted: until its endpoints are gone everywhere, clients still come."""
_UNTIL_IDLE = """\
while [ $SECONDS -lt {seconds} ]; do
  exec 3<>/dev/tcp/127.0.0.1/{port} || exit 0
  printf 'GET /stats?filter=bound%%5C.downstream_cx_active HTTP/1.1\\r\\n' >&3
  printf 'Host: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3
  open=0
  while IFS=$' \\t\\r' read -r name number; do
    case $name in listener.*) open=$((open + number));; esac
  done <&3
  [ $open = 0 ] && exit 0
  sleep 0.2
done
"""
"""The application has ended, as a Job's does: nobody comes any more; who is there may finish."""


def _drain_script(given: BuildInput) -> str:
    """Asks Envoy to finish inbound connections politely, and stays until it has, while what the
    application still sends passes; then the kubelet ends Envoy."""
    wait = 0 if given.values.proxy.native_sidecar else given.values.proxy.wait_before_exit_seconds
    ends = given.values.proxy.native_sidecar and given.pod["spec"].get("restartPolicy") in _ENDING
    return (_DRAIN + (_UNTIL_IDLE if ends else _STAY)).format(
        port=given.values.proxy.ports.control, seconds=max(wait, drain_seconds(given))
    )


def drain_seconds(given: BuildInput) -> int:
    """The drain time, at most half of the pod's grace period: the application needs the rest."""
    grace = given.pod["spec"].get("terminationGracePeriodSeconds")
    wanted = given.values.meshgraft.envoy.drain_seconds
    if given.values.proxy.shutdown_grace_period:
        wanted = duration("shutdownGracePeriod", given.values.proxy.shutdown_grace_period).seconds
    # The API server takes a negative grace period, and the kubelet takes it for none.
    return min(wanted, max(0, 30 if grace is None else grace) // 2)
