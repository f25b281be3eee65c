"""What is to be done next about CA, serving certificate and caBundle: pure, from state and time.

The order keeps every client that follows ``caBundle``, with a delay, able to connect at any time:

1. a new CA goes into the Secret, beside the one that signs, and from there into each caBundle;
2. once it has stood in all of them for `Policy.propagation`, it signs: the serving certificate is
   issued anew, and the old CA's key is thrown away;
3. the old CA leaves the bundle when the last certificate that it signed has expired.

A Secret that is lost, or whose CA is broken, takes the same road: what is still trusted stays
trusted, and what is still served goes on being served, until the new CA is trusted everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from certificates.secret import Held
from certificates.x509 import (
    BACKDATED,
    Authority,
    ServingCert,
    check_pair,
    is_issued_by,
    issue_authority,
    issue_serving,
)

MAX_FORMER = 8
"""Former CAs in the bundle: what clients trusted when a Secret was lost is taken over, not more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long things live. The reasons for the numbers: docs/decisions/0009."""

    sans: tuple[str, ...]
    """The names that the serving certificate must have."""
    leaf: timedelta = timedelta(days=7)
    authority: timedelta = timedelta(days=365)
    propagation: timedelta = timedelta(seconds=30)
    """After so long every API server goes by a caBundle that was written."""
    path_length: int = 0
    """How many CAs may stand between ours and what it leads to."""
    look: timedelta = timedelta(minutes=1)
    """The Secret is looked at this often in any case."""

    @property
    def leaf_margin(self) -> timedelta:
        """What is left of a serving certificate's life when it is issued anew."""
        return self.leaf / 3

    @property
    def authority_margin(self) -> timedelta:
        """What is left of a CA's life when the next one is made."""
        return self.authority / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a decision stands on."""

    held: Held | None
    """The Secret's content; None where there is no Secret."""
    bundles: tuple[bytes, ...]
    """The caBundle of each webhook, as PEM; none where there is no such configuration."""
    trusted_for: Mapping[x509.Certificate, timedelta] = field(default_factory=dict)
    """The CAs that stand in every caBundle, and for how long this process has seen them there."""
    remembered: Held | None = None
    """What the Secret held when this process last saw it whole, for when it is lost."""


Step = Literal["new-ca", "promote", "renew", "retire"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now, and when to look again."""

    step: Step | None
    """The one change of the Secret that is due."""
    why: str
    publish: bytes | None
    """What to write into each caBundle."""
    look_within: timedelta


class Trust:
    """Since when each CA has stood in every caBundle, by a clock that is never set."""

    def __init__(self) -> None:
        """Nothing has been seen yet."""
        self._since: dict[x509.Certificate, float] = {}

    def observe(
        self, bundles: Sequence[bytes], seconds: float
    ) -> dict[x509.Certificate, timedelta]:
        """Take note of what is there now; for how long each has been there without a break."""
        each = [set(parse_bundle(bundle)) for bundle in bundles]
        in_all = set[x509.Certificate].intersection(*each) if each else ()
        self._since = {one: self._since.get(one, seconds) for one in in_all}
        return {one: timedelta(seconds=seconds - since) for one, since in self._since.items()}


def parse_bundle(bundle: bytes) -> list[x509.Certificate]:
    """The certificates of a caBundle; none where it cannot be read (nor can the API server)."""
    try:
        return x509.load_pem_x509_certificates(bundle) if bundle.strip() else []
    except (ValueError, UnsupportedAlgorithm):
        return []


def decide(view: View, policy: Policy, now: datetime) -> Plan:
    """What is due now. One change of the Secret at a time: the next look goes by what is stored."""
    held = view.held or Held()
    step, why = _secret_step(view, held, policy, now)
    behind = any(bundle != held.bundle for bundle in view.bundles)
    return Plan(
        step=step,
        why=why,
        # Where the CA is broken, what is in the caBundles may be all that is known of the old one.
        publish=held.bundle if behind and (held.signer or held.upcoming) else None,
        look_within=_look_within(view, _living(held.upcoming, now), policy),
    )


def _secret_step(view: View, held: Held, policy: Policy, now: datetime) -> tuple[Step | None, str]:
    signer = _living(held.signer, now)
    upcoming = _living(held.upcoming, now)
    if upcoming and _may_sign(view, held, upcoming, policy, now):
        return "promote", "the new CA is trusted everywhere"
    if signer and (problem := leaf_problem(held.leaf, signer, policy, now)):
        return "renew", problem
    if not upcoming and (problem := _signer_problem(view, signer, policy, now)):
        return "new-ca", problem
    if held.former and not _keeps_former(held, policy, now):
        return "retire", "nothing that the former CA signed is valid any more"
    return None, ""


def _living(authority: Authority | None, now: datetime) -> Authority | None:
    return authority if authority and _holds(authority.certificate, now) else None


def _holds(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _may_sign(view: View, held: Held, upcoming: Authority, policy: Policy, now: datetime) -> bool:
    """Whether every client accepts what it signs; or, as at the first start, none accepts any."""
    if view.trusted_for.get(upcoming.certificate, -policy.propagation) >= policy.propagation:
        return True
    trusted = {*held.former, *(one for bundle in view.bundles for one in parse_bundle(bundle))}
    return _usable_leaf(held, now) is None and trusted <= {upcoming.certificate}


def _usable_leaf(held: Held | None, now: datetime) -> ServingCert | None:
    leaf = held.leaf if held else None
    return leaf if leaf and _holds(leaf.certificate, now) else None


def leaf_problem(leaf: ServingCert | None, signer: Authority, policy: Policy, now: datetime) -> str:
    """Why the serving certificate has to be issued anew; empty where it need not."""
    if leaf is None:
        return "there is no usable serving certificate"
    if not is_issued_by(leaf.certificate, signer.certificate):
        return "the serving certificate is not of the CA that signs"
    if not _holds(leaf.certificate, now):
        return "the serving certificate does not hold now"
    if missing := sorted(set(policy.sans) - set(dns_names(leaf.certificate))):
        return f"the serving certificate lacks the name {', '.join(missing)}"
    # One that ends with its CA would not live longer if it were issued anew.
    can_live_longer = leaf.not_after < signer.certificate.not_valid_after_utc
    if can_live_longer and now >= leaf.not_after - policy.leaf_margin:
        return "the serving certificate is getting old"
    return ""


def dns_names(certificate: x509.Certificate) -> list[str]:
    """The DNS names of the SAN."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return san.value.get_values_for_type(x509.DNSName)


def _signer_problem(view: View, signer: Authority | None, policy: Policy, now: datetime) -> str:
    """Why the next CA is needed; empty where it is not."""
    if signer is None:
        return "there is no Secret" if view.held is None else "the Secret has no usable CA"
    if now >= signer.certificate.not_valid_after_utc - policy.authority_margin:
        return "the CA is getting old"
    return ""


def _keeps_former(held: Held, policy: Policy, now: datetime) -> bool:
    """Whether something that former CAs signed may still be in use.

    That one of them has expired is no reason: by a clock that is wrong, all would have.
    """
    if held.upcoming is not None or held.signer is None:
        return True
    since = held.signs_since
    if since is None and held.leaf is not None:
        since = held.leaf.not_before + BACKDATED
    return since is None or now < since + policy.leaf + BACKDATED


def _look_within(view: View, upcoming: Authority | None, policy: Policy) -> timedelta:
    if upcoming is None:
        return policy.look
    waited = view.trusted_for.get(upcoming.certificate, timedelta())
    return min(policy.look, max(policy.propagation - waited, timedelta()))


def take(step: Step, view: View, policy: Policy, now: datetime) -> Held:
    """What the Secret is to hold after the step. Makes new keys; writes nothing."""
    held = view.held or Held()
    if step == "new-ca":
        return _with_new_authority(view, held, policy, now)
    if step == "retire":
        return replace(held, former=())
    if step == "promote":
        held = _promoted(held, now)
    if held.signer is None:
        raise ValueError(f"{step}: there is no CA that could sign")
    pair = issue_serving(held.signer, policy.sans, now, policy.leaf)
    return replace(held, leaf=check_pair(pair, "issued"), signs_since=held.signs_since or now)


def _promoted(held: Held, now: datetime) -> Held:
    old = (held.signer.certificate,) if held.signer else ()
    former = (*old, *held.former)[:MAX_FORMER]
    return replace(held, signer=held.upcoming, upcoming=None, former=former, signs_since=now)


def _with_new_authority(view: View, held: Held, policy: Policy, now: datetime) -> Held:
    upcoming = issue_authority(now, policy.authority, policy.path_length)
    signer = _living(held.signer, now)
    former = held.former
    if signer is None:
        # Replicas go on showing what a CA signed that is lost: whatever clients trust, stays.
        lost = (*held.trusted, *(view.remembered.trusted if view.remembered else ()))
        stated = [one for bundle in view.bundles for one in parse_bundle(bundle)]
        former = tuple(dict.fromkeys((*lost, *stated)))[:MAX_FORMER]
    leaf = _usable_leaf(held, now) or _usable_leaf(view.remembered, now)
    return replace(held, leaf=leaf, signer=signer, upcoming=upcoming, former=former)
