"""The objects of the injector that several checks look at, and what is read from them."""

from __future__ import annotations

import base64
import binascii

from cryptography import x509

from injector.core.model import Object
from injector.core.values import Values
from injector.service.settings import SettingsError
from kubeapi import reading
from meshgraft.checks.model import Options, Ref, Skip, Snapshot
from meshgraft.installed import CONFIG_MAP, INJECTOR, TLS_SECRET, WEBHOOK_CONFIG, settings_in
from vocabulary.errors import MeshgraftError

WEBHOOK = Ref(reading.MUTATING_WEBHOOKS, WEBHOOK_CONFIG)


def config_map(options: Options) -> Ref:
    """The injector's settings."""
    return Ref(reading.CONFIG_MAPS, CONFIG_MAP, options.mesh_namespace)


def deployment(options: Options) -> Ref:
    """The injector itself."""
    return Ref(reading.DEPLOYMENTS, INJECTOR, options.mesh_namespace)


def tls_secret(options: Options) -> Ref:
    """The webhook's certificate, whoever made it."""
    return Ref(reading.SECRETS, TLS_SECRET, options.mesh_namespace)


def pods(options: Options) -> Ref:
    """The injector's replicas."""
    selector = "app.kubernetes.io/name=meshgraft,app.kubernetes.io/component=injector"
    return Ref(reading.PODS, "", options.mesh_namespace, selector)


def settings(snapshot: Snapshot) -> Values:
    """The settings in force.

    Raises:
        Skip: there are none, or they are not usable, as another check says.
        ApiServerError: they are not known.
    """
    ref = config_map(snapshot.options)
    try:
        return settings_in(snapshot.need(ref), str(ref))
    except SettingsError as error:
        raise Skip from error


def webhooks(snapshot: Snapshot) -> list[Object]:
    """The webhooks of the registration; at least one.

    Raises:
        Skip: there are none, as another check says.
        ApiServerError: they are not known.
    """
    found: list[Object] = snapshot.need(WEBHOOK).get("webhooks") or []
    if not found:
        raise Skip
    return found


class BadCertificate(MeshgraftError, ValueError):
    """What should hold certificates holds something else; the text says what."""


def certificates(encoded: str, source: str) -> list[x509.Certificate]:
    """The certificates of a field that holds PEM in base64.

    Raises:
        BadCertificate: it holds none.
    """
    try:
        return x509.load_pem_x509_certificates(base64.b64decode(encoded, validate=True))
    except (ValueError, binascii.Error) as error:
        raise BadCertificate(f"{source} holds no certificate: {error}") from error
