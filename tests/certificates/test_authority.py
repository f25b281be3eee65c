"""What is due about CA, certificate and caBundle: in any state, at any time, over a whole life."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from certificates.authority import MAX_FORMER, Plan, Policy, Trust, View, decide, take
from certificates.secret import Held, read_held, write_held
from certificates.x509 import (
    BACKDATED,
    Authority,
    ServingCert,
    check_pair,
    is_issued_by,
    issue_authority,
    issue_serving,
)
from tests.injector.cert_support import NOW, SERVICE, accepts

POLICY = Policy(sans=(SERVICE,))
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


@functools.cache
def authority(issued: datetime = NOW, number: int = 0) -> Authority:
    """A CA; one for each number."""
    return issue_authority(issued, POLICY.authority)


def leaf(by: Authority, issued: datetime = NOW, sans: tuple[str, ...] = (SERVICE,)) -> ServingCert:
    return check_pair(issue_serving(by, sans, issued, POLICY.leaf), "test")


@functools.cache
def settled() -> Held:
    """A Secret as it is for months."""
    return Held(leaf=leaf(authority()), signer=authority(), signs_since=NOW)


@functools.cache
def rotating() -> Held:
    """The next CA has been made, and is not trusted by all yet."""
    return replace(settled(), upcoming=authority(number=1))


@functools.cache
def rotated() -> Held:
    """The next CA signs, and the former is still trusted."""
    new = authority(number=1)
    former = (authority().certificate,)
    return Held(leaf=leaf(new), signer=new, former=former, signs_since=NOW)


def view(held: Held | None, *bundles: bytes, **given: object) -> View:
    """What is seen; the caBundle is as it should be, unless it is given."""
    if held is not None and not bundles:
        bundles = (held.bundle,)
    return View(held=held, bundles=bundles, **given)  # type: ignore[arg-type]


def trusted(held: Held, seconds: float) -> dict[x509.Certificate, timedelta]:
    return {one: timedelta(seconds=seconds) for one in held.trusted}


def is_quiet(plan: Plan) -> bool:
    return plan.step is None and plan.publish is None


# First issue


def test_at_the_first_start_three_writes_make_everything() -> None:
    seen = view(None, b"", b"")
    plan = decide(seen, POLICY, NOW)
    assert (plan.step, plan.publish) == ("new-ca", None)
    first = take("new-ca", seen, POLICY, NOW)
    assert (first.signer, first.leaf) == (None, None)

    seen = view(first, b"", b"")
    plan = decide(seen, POLICY, NOW)
    # No client accepts anything yet: there is nothing to wait for.
    assert (plan.step, plan.publish) == ("promote", first.bundle)
    second = take("promote", seen, POLICY, NOW)

    assert is_quiet(decide(view(second), POLICY, NOW))
    assert second.leaf is not None
    assert accepts(second.bundle, second.leaf.certificate, NOW)
    assert second.bundle == first.bundle


def test_without_a_webhook_configuration_the_certificate_is_issued_all_the_same() -> None:
    held = take("new-ca", view(None), POLICY, NOW)
    assert decide(View(held=held, bundles=()), POLICY, NOW).step == "promote"


def test_a_second_start_makes_nothing_anew() -> None:
    assert is_quiet(decide(view(settled()), POLICY, NOW))
    assert is_quiet(decide(view(settled()), POLICY, NOW + MINUTE))


# In time, and neither before nor after


@pytest.mark.parametrize(
    ("held", "at", "step"),
    [
        (settled, POLICY.leaf * 2 / 3 - MINUTE, None),
        (settled, POLICY.leaf * 2 / 3, "renew"),
        (settled, POLICY.leaf + DAY, "renew"),
        # A clock that is behind by less than certificates are backdated, and by more.
        (settled, -BACKDATED, None),
        (settled, -BACKDATED - MINUTE, "new-ca"),
        # The CA: a certificate that is due comes first, then the next CA.
        (settled, POLICY.authority * 2 / 3, "renew"),
        (settled, POLICY.authority, "new-ca"),
        (settled, POLICY.authority * 9, "new-ca"),
        (rotating, timedelta(0), None),
        (rotating, POLICY.leaf * 2 / 3, "renew"),
        (rotated, POLICY.leaf, "renew"),
    ],
)
def test_each_thing_is_done_in_time(held: Callable[[], Held], at: timedelta, step: str) -> None:
    assert decide(view(held()), POLICY, NOW + at).step == step


def test_the_next_ca_is_made_when_a_third_of_its_life_is_left() -> None:
    due = NOW + POLICY.authority * 2 / 3
    held = replace(settled(), leaf=leaf(authority(), due))
    assert decide(view(held), POLICY, due - MINUTE).step is None
    assert decide(view(held), POLICY, due).step == "new-ca"
    new = take("new-ca", view(held), POLICY, due)
    # It signs nothing before all trust it.
    assert (new.signer, new.leaf) == (held.signer, held.leaf)
    assert new.upcoming is not None
    assert set(new.trusted) == {authority().certificate, new.upcoming.certificate}
    assert decide(view(new, held.bundle), POLICY, due).publish == new.bundle


@pytest.mark.parametrize(
    ("seconds", "step"), [(0, None), (29.9, None), (30, "promote"), (3000, "promote")]
)
def test_a_ca_signs_once_every_api_server_trusts_it(seconds: float, step: str | None) -> None:
    plan = decide(view(rotating(), trusted_for=trusted(rotating(), seconds)), POLICY, NOW)
    assert plan.step == step
    if step is None:
        assert plan.look_within == timedelta(seconds=30 - seconds)


def test_a_ca_that_one_webhook_lacks_does_not_sign() -> None:
    trust = Trust()
    found = (rotating().bundle, settled().bundle)
    for seconds in (0.0, 100.0):
        seen = view(rotating(), *found, trusted_for=trust.observe(found, seconds))
        plan = decide(seen, POLICY, NOW)
        assert (plan.step, plan.publish) == (None, rotating().bundle)


def test_trust_is_counted_anew_after_a_break() -> None:
    trust, bundle, new = Trust(), rotating().bundle, authority(number=1).certificate
    assert trust.observe([bundle, bundle], 5)[new] == timedelta()
    assert trust.observe([bundle, bundle], 25)[new] == timedelta(seconds=20)
    assert new not in trust.observe([bundle, b"overwritten"], 26)
    assert trust.observe([bundle, bundle], 27)[new] == timedelta()
    assert trust.observe([], 28) == {}


def test_when_the_new_ca_signs_the_old_ones_key_is_gone_and_its_certificate_is_trusted() -> None:
    held = take("promote", view(rotating()), POLICY, NOW)
    assert held.signer == authority(number=1)
    assert held.upcoming is None
    assert held.former == (authority().certificate,)
    # Not even the order changes: a caBundle that is written makes API servers connect anew.
    assert held.bundle == rotating().bundle
    assert held.leaf is not None
    assert is_issued_by(held.leaf.certificate, authority(number=1).certificate)


@pytest.mark.parametrize("since_is_known", [True, False])
def test_the_former_ca_goes_when_all_that_it_signed_has_expired(since_is_known: bool) -> None:
    held = replace(rotated(), signs_since=NOW if since_is_known else None)
    renewed = NOW + POLICY.leaf / 2
    if since_is_known:
        held = replace(held, leaf=leaf(authority(number=1), renewed))
    end = NOW + POLICY.leaf + BACKDATED
    assert decide(view(held), POLICY, end - MINUTE).step != "retire"
    fresh = replace(held, leaf=leaf(authority(number=1), end), signs_since=NOW)
    assert decide(view(fresh), POLICY, end).step == "retire"
    retired = take("retire", view(fresh), POLICY, end)
    assert retired.trusted == (authority(number=1).certificate,)
    assert decide(view(retired, fresh.bundle), POLICY, end).publish == retired.bundle


def test_a_clock_that_is_far_ahead_takes_nothing_away() -> None:
    """Certificates that seem to have expired may be what the other replicas show."""
    ahead = NOW + POLICY.authority * 3
    seen = view(settled(), settled().bundle)
    held = take("new-ca", seen, POLICY, ahead)
    assert authority().certificate in held.trusted
    assert decide(view(held), POLICY, ahead).step is None


def test_a_certificate_that_ends_with_its_ca_is_not_issued_over_and_over() -> None:
    end = authority().certificate.not_valid_after_utc
    held = replace(rotating(), leaf=leaf(authority(), end - DAY))
    assert decide(view(held), POLICY, end - MINUTE).step is None


@pytest.mark.parametrize(
    "broken",
    [
        lambda: None,
        lambda: leaf(authority(number=7)),
        lambda: leaf(authority(), sans=("other.svc",)),
        lambda: leaf(authority(), NOW - 30 * DAY),
        lambda: leaf(authority(), NOW + 30 * DAY),
    ],
    ids=["none", "of another CA", "without our name", "expired", "not valid yet"],
)
def test_a_certificate_that_no_client_accepts_is_issued_anew(
    broken: Callable[[], ServingCert | None],
) -> None:
    held = replace(settled(), leaf=broken())
    assert decide(view(held), POLICY, NOW).step == "renew"
    fixed = take("renew", view(held), POLICY, NOW)
    assert fixed.leaf is not None
    assert accepts(held.bundle, fixed.leaf.certificate, NOW)
    assert is_quiet(decide(view(fixed), POLICY, NOW))


# Things go wrong


@pytest.mark.parametrize("bundle", [b"", b"nonsense", rotated().bundle])
def test_a_ca_bundle_that_was_overwritten_is_put_back(bundle: bytes) -> None:
    seen = view(settled(), settled().bundle, bundle)
    plan = decide(seen, POLICY, NOW)
    assert (plan.step, plan.publish) == (None, settled().bundle)


@pytest.mark.parametrize("damaged", [None, Held(), Held(leaf=settled().leaf)])
def test_a_lost_ca_is_replaced_while_what_is_served_stays_trusted(damaged: Held | None) -> None:
    seen = view(damaged, settled().bundle, remembered=settled())
    plan = decide(seen, POLICY, NOW)
    assert (plan.step, plan.publish) == ("new-ca", None)
    held = take("new-ca", seen, POLICY, NOW)
    assert held.leaf == settled().leaf
    assert held.upcoming is not None
    assert set(held.trusted) == {authority().certificate, held.upcoming.certificate}
    # The new one signs only when it is trusted, the old certificate is served until then.
    assert decide(view(held), POLICY, NOW).step is None
    later = view(held, trusted_for=trusted(held, 30))
    assert decide(later, POLICY, NOW).step == "promote"


def test_a_lost_secret_that_nobody_remembers_leaves_the_ca_bundles_trust() -> None:
    """Other replicas may still show what it trusts, and the next one has nothing to show yet."""
    seen = view(None, settled().bundle)
    held = take("new-ca", seen, POLICY, NOW)
    assert (held.leaf, held.former) == (None, (authority().certificate,))
    assert decide(view(held, settled().bundle), POLICY, NOW).step is None
    assert decide(view(held), POLICY, NOW).step is None
    assert decide(view(held, trusted_for=trusted(held, 30)), POLICY, NOW).step == "promote"


def test_a_ca_bundle_that_is_emptied_then_is_no_reason_to_hurry() -> None:
    held = take("new-ca", view(None, settled().bundle), POLICY, NOW)
    plan = decide(view(held, b""), POLICY, NOW)
    assert (plan.step, plan.publish) == (None, held.bundle)


def test_what_is_taken_over_is_bounded() -> None:
    many = Held(former=tuple(authority(number=20 + each).certificate for each in range(12)))
    held = take("new-ca", view(None, many.bundle), POLICY, NOW)
    assert len(held.former) == MAX_FORMER


def test_a_step_that_nobody_can_take_says_so() -> None:
    with pytest.raises(ValueError, match="renew: there is no CA that could sign"):
        take("renew", view(Held()), POLICY, NOW)


# A whole life


@dataclass
class Replica:
    """A process: what it shows, what it remembers, and a clock that is not quite right."""

    skew: timedelta
    shown: ServingCert | None = None
    remembered: Held | None = None
    trust: Trust = field(default_factory=Trust)


@dataclass
class World:
    """A cluster of three replicas, and API servers that hear of a caBundle with a delay."""

    now: datetime = NOW
    secret: dict[str, object] | None = None
    bundle: bytes = b""
    history: list[tuple[datetime, bytes]] = field(default_factory=list)
    replicas: list[Replica] = field(
        default_factory=lambda: [Replica(minutes * MINUTE) for minutes in (0, -4, 4)]
    )

    def publish(self, bundle: bytes) -> None:
        self.bundle = bundle
        self.history.append((self.now, bundle))

    def look(self, number: int, *, acts: bool = False) -> None:
        """One replica reads the Secret, and does what is due if it is the one that acts."""
        replica = self.replicas[number]
        held = read_held(self.secret, "test") if self.secret else None
        clock = self.now + replica.skew
        if held and held.leaf and held.leaf.not_before <= clock < held.leaf.not_after:
            replica.shown = held.leaf
            replica.remembered = held if held.signer else replica.remembered
        if not acts:
            replica.trust = Trust()
            return
        seen = View(
            held=held,
            bundles=(self.bundle,),
            trusted_for=replica.trust.observe([self.bundle], self.now.timestamp()),
            remembered=replica.remembered,
        )
        plan = decide(seen, POLICY, clock)
        if plan.step:
            stored = take(plan.step, seen, POLICY, clock)
            self.secret = write_held(stored, self.secret, "a", "b")
        if plan.publish is not None:
            self.publish(plan.publish)

    def settle(self, number: int) -> None:
        """Look as often as it takes, without time going by."""
        for _ in range(5):
            self.look(number, acts=True)

    def check(self) -> None:
        """Whatever is shown is accepted by whoever goes by any bundle that may still be in use."""
        ends = [begun for begun, _ in self.history[1:]] + [self.now]
        recent = zip(self.history, ends, strict=True)
        possible = {bundle for (_, bundle), end in recent if end >= self.now - POLICY.propagation}
        for replica in self.replicas:
            if replica.shown and self.now < replica.shown.not_after:
                for bundle in possible:
                    assert _accepts(bundle, replica.shown.certificate, self.now)


@functools.lru_cache(maxsize=4096)
def _signers(bundle: bytes, certificate: x509.Certificate) -> tuple[x509.Certificate, ...]:
    found = x509.load_pem_x509_certificates(bundle)
    return tuple(one for one in found if is_issued_by(certificate, one))


def _accepts(bundle: bytes, certificate: x509.Certificate, at: datetime) -> bool:
    chain = (*_signers(bundle, certificate)[:1], certificate)
    return len(chain) == 2 and all(
        one.not_valid_before_utc <= at < one.not_valid_after_utc for one in chain
    )


EVENTS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 29, 31, 3600, 86400, 5 * 86400, 90 * 86400])),
    st.tuples(st.sampled_from(["look", "act", "restart"]), st.integers(0, 2)),
    st.tuples(st.sampled_from(["lose", "damage", "overwrite"]), st.integers(0, 2)),
)


def happen(world: World, event: str, number: int) -> None:
    if event == "wait":
        world.now += timedelta(seconds=number)
    elif event == "restart":
        world.replicas[number] = Replica(world.replicas[number].skew)
    elif event == "lose":
        world.secret = None
    elif event == "damage" and world.secret:
        data = dict(world.secret["data"])  # type: ignore[call-overload]
        data.pop(["ca.key", "tls.key", "ca.crt"][number], None)
        world.secret = {**world.secret, "data": data}
    elif event == "overwrite":
        # A Secret and a caBundle that are both lost at the same moment leave nothing to go by.
        world.settle(number)
        world.bundle = b""
        # Within seconds it is back: the API servers' own delay covers that.
        world.settle(number)
    elif event == "look":
        world.look(number)
    elif event == "act":
        world.look(number, acts=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENTS, max_size=40), st.integers(0, 2))
def test_whatever_happens_what_is_shown_is_accepted(
    events: list[tuple[str, int]], first: int
) -> None:
    world = World()
    world.settle(first)
    for number in range(3):
        world.look(number)
    for event, number in events:
        happen(world, event, number)
        world.check()


@settings(max_examples=20, deadline=None)
@given(st.lists(EVENTS, max_size=20))
def test_whatever_happened_it_is_well_again_soon(events: list[tuple[str, int]]) -> None:
    world = World()
    for event, number in events:
        happen(world, event, number)
    for _ in range(2):
        world.settle(0)
        world.now += POLICY.propagation
    world.settle(0)
    for number in range(3):
        world.look(number)
        shown = world.replicas[number].shown
        assert shown is not None
        assert accepts(world.bundle, shown.certificate, world.now)
    before = (world.secret, world.bundle)
    world.settle(1)
    assert (world.secret, world.bundle) == before
