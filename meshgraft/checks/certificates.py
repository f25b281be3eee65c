"""Checks of the webhook's certificate, as the API server will look at it."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from injector.core.model import Object
from meshgraft.checks.model import Category, Check, Skip, Snapshot
from meshgraft.checks.parts import WEBHOOK, BadCertificate, certificates, tls_secret, webhooks
from meshgraft.installed import INJECTOR

_LATE = 5
"""A certificate is renewed with a third of its life left; with a fifth left that has not worked."""


def _chain(snapshot: Snapshot) -> list[x509.Certificate]:
    ref = tls_secret(snapshot.options)
    secret = snapshot.find(ref)
    if secret is None:
        raise BadCertificate(f'secrets "{ref.name}" not found')
    return certificates((secret.get("data") or {}).get("tls.crt") or "", f"{ref}: tls.crt")


def _is_valid(snapshot: Snapshot) -> str | None:
    try:
        chain = _chain(snapshot)
        for webhook in webhooks(snapshot):
            problem = _refused(chain, webhook, snapshot)
            if problem:
                return problem
    except BadCertificate as error:
        return str(error)
    return None


def _refused(chain: list[x509.Certificate], webhook: Object, snapshot: Snapshot) -> str | None:
    """Why the API server would not trust the certificate for this webhook."""
    client = webhook.get("clientConfig") or {}
    service, bundle = client.get("service"), client.get("caBundle")
    if not service or service.get("name") != INJECTOR or not bundle:
        return None  # Who else is called, and that there is no bundle, other checks tell.
    name = f"{service['name']}.{service['namespace']}.svc"
    trusted = certificates(bundle, f"caBundle of {WEBHOOK}")
    verifier = (
        PolicyBuilder()
        .store(Store(trusted))
        .time(snapshot.now)
        .extension_policies(ca_policy=_CA, ee_policy=_LEAF)
        .build_server_verifier(x509.DNSName(name))
    )
    try:
        verifier.verify(chain[0], chain[1:])
    except VerificationError as error:
        names = ", ".join(_names(chain[0])) or "none"
        end = chain[0].not_valid_after_utc
        return (
            f"cert is not issued by the trust anchor, or not for {name}: {error}\n"
            f"its names: {names}; valid until {end:%Y-%m-%dT%H:%M:%SZ}"
        )
    return None


# The API server (Go) asks of a certificate no more than this; the Web's rules ask for more.
_CA = ExtensionPolicy.permit_all().require_present(
    x509.BasicConstraints, Criticality.AGNOSTIC, None
)
_LEAF = ExtensionPolicy.permit_all().require_present(
    x509.SubjectAlternativeName, Criticality.AGNOSTIC, None
)


def _names(leaf: x509.Certificate) -> list[str]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return found.value.get_values_for_type(x509.DNSName)


def _lasts(snapshot: Snapshot) -> str | None:
    try:
        leaf = _chain(snapshot)[0]
    except BadCertificate as error:
        raise Skip from error
    end = leaf.not_valid_after_utc
    life, left = end - leaf.not_valid_before_utc, end - snapshot.now
    if left * _LATE > life:
        return None
    return f"certificate will expire on {end:%Y-%m-%dT%H:%M:%SZ}"


def _bundle_is_there(snapshot: Snapshot) -> str | None:
    for webhook in webhooks(snapshot):
        if not (webhook.get("clientConfig") or {}).get("caBundle"):
            return f"caBundle of {webhook.get('name')} is empty"
    return None


WEBHOOK_TLS = Category(
    name="meshgraft-webhooks-tls",
    applies=lambda options: not options.pre,
    objects=lambda options: (WEBHOOK, tls_secret(options)),
    checks=(
        Check(
            id="meshgraft-webhook-ca-bundle",
            text="proxy-injector webhook has a CA bundle",
            run=_bundle_is_there,
            fix="Look at the injector's log: it writes the bundle in mode self; cert-manager's"
            " cainjector does in mode cert-manager.",
            why="Without it the API server trusts only public CAs, and no call of the webhook"
            " succeeds.",
            retriable=True,
        ),
        Check(
            id="l5d-proxy-injector-webhook-cert-valid",
            text="proxy-injector webhook has valid cert",
            run=_is_valid,
            fix="Look at the injector's log for why the certificate is not renewed, or renew the"
            " one that you provided.",
            why="The API server does not trust the webhook, and no call of it succeeds.",
            retriable=True,
        ),
        Check(
            id="l5d-proxy-injector-webhook-cert-not-expiring-soon",
            text="proxy-injector cert is not expiring soon",
            run=_lasts,
            fix="Look at the injector's log for why the certificate is not renewed, or renew the"
            " one that you provided.",
            why="Less than a fifth of its life is left, though it is renewed when a third is.",
            warning=True,
        ),
    ),
)
