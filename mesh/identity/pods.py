"""What a pod is: asked of the API server, at the moment when its certificate is signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

from kubeapi.client import ApiServer, ApiServerError, is_name

_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class KnownPod:
    """A pod, as far as its identity goes."""

    uid: str
    node: str
    service_account: str
    ended: bool = False


class Pods(Protocol):
    """Knows pods."""

    async def get(self, namespace: str, name: str) -> KnownPod | None:
        """The pod; None where there is none.

        Raises:
            ApiServerError: it cannot be found out now.
        """


class _Meta(msgspec.Struct, frozen=True):
    uid: str = ""


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""
    service_account_name: str = "default"


class _Status(msgspec.Struct, frozen=True):
    phase: str = ""


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    spec: _Spec = _Spec()
    status: _Status = _Status()


def read_known_pod(content: bytes) -> KnownPod:
    """A pod from its JSON.

    Raises:
        msgspec.DecodeError: it is none.
    """
    pod = msgspec.json.decode(content, type=_Pod)
    account = pod.spec.service_account_name or "default"
    ended = pod.status.phase in _ENDED
    return KnownPod(pod.metadata.uid, pod.spec.node_name, account, ended)


class ApiPods:
    """`Pods` of an API server, never from a cache: it decides who somebody is."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api

    async def get(self, namespace: str, name: str) -> KnownPod | None:
        """As `Pods`."""
        if not (is_name(namespace) and is_name(name)):
            return None
        path = f"api/v1/namespaces/{namespace}/pods/{name}"
        try:
            return read_known_pod(await self._api.get(path, accept="application/json"))
        except msgspec.DecodeError as error:
            raise ApiServerError(f"pod {namespace}/{name} is not understood: {error}") from error
        except ApiServerError as error:
            if error.status == 404:
                return None
            raise
