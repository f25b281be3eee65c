"""The shape of a Pod or Service as far as the core reads it, so that a malformed one is found.

The API server always sends well-formed objects: Go's types see to that. Anyone else who reaches
the webhook gets a sentence that names the field, instead of our traceback.
"""

from __future__ import annotations

from typing import Any

import msgspec

from injector.core.model import Object


class _Part(msgspec.Struct, rename="camel", kw_only=True):
    """Base: camelCase, unknown fields ignored; ``None`` where Go writes null for an empty list."""


class _Named(_Part):
    name: str


class _Volume(_Named):
    empty_dir: dict[str, Any] | None = None
    host_path: dict[str, Any] | None = None


class _ContainerPort(_Part):
    container_port: int
    name: str | None = None


class _Mount(_Named):
    mount_path: str


class _HttpGet(_Part):
    port: int | str


class _TcpSocket(_Part):
    port: int | str
    host: str | None = None


class _Probe(_Part):
    http_get: _HttpGet | None = None
    tcp_socket: _TcpSocket | None = None


class _Capabilities(_Part):
    add: list[str] | None = None
    drop: list[str] | None = None


class _SecurityContext(_Part):
    capabilities: _Capabilities | None = None


class _Container(_Named):
    image: str = ""
    ports: list[_ContainerPort] | None = None
    env: list[_Named] | None = None
    volume_mounts: list[_Mount] | None = None
    startup_probe: _Probe | None = None
    liveness_probe: _Probe | None = None
    readiness_probe: _Probe | None = None
    security_context: _SecurityContext | None = None


class _Os(_Part):
    name: str


class _PodSpec(_Part):
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None
    volumes: list[_Volume] | None = None
    host_network: bool | None = None
    os: _Os | None = None
    automount_service_account_token: bool | None = None
    termination_grace_period_seconds: int | None = None


class _Pod(_Part):
    spec: _PodSpec


class _ServicePort(_Part):
    port: int
    target_port: int | str | None = None


class _ServiceSpec(_Part):
    ports: list[_ServicePort] | None = None


class _Service(_Part):
    spec: _ServiceSpec


_SHAPES: dict[str, type[_Part]] = {"Pod": _Pod, "Service": _Service}


def malformed(kind: str, obj: Object) -> str | None:
    """What is wrong with the object, naming the field; None where the core can read it."""
    shape = _SHAPES.get(kind)
    if shape is None:
        return None
    try:
        msgspec.convert(obj, shape)
    except msgspec.ValidationError as error:
        return str(error)
    return None
