"""The Secret: what is written is read again, damage is told and survived, others' is left alone."""

from __future__ import annotations

import base64
import copy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from certificates.secret import ForeignSecretError, Held, read_held, write_held
from certificates.x509 import certificates_pem, check_pair, issue_authority, issue_serving
from tests.injector.cert_support import NOW, SERVICE

SOURCE = "secrets meshgraft/certs"
SIGNER, UPCOMING, FORMER = (issue_authority(NOW) for _ in range(3))
WHOLE = Held(
    leaf=check_pair(issue_serving(SIGNER, [SERVICE], NOW), SOURCE),
    signer=SIGNER,
    upcoming=UPCOMING,
    former=(FORMER.certificate,),
    signs_since=NOW,
)


def written(held: Held = WHOLE, previous: dict[str, Any] | None = None) -> dict[str, Any]:
    return write_held(held, previous, "meshgraft", "certs")


def same(found: Held, expected: Held) -> bool:
    """Keys are compared by what they sign with."""
    authorities = [(one.signer, one.upcoming) for one in (found, expected)]
    pems = [[each and each.pem for each in pair] for pair in authorities]
    pairs = [one.leaf and one.leaf.pair for one in (found, expected)]
    rest = [(one.former, one.signs_since, one.faults) for one in (found, expected)]
    return pems[0] == pems[1] and pairs[0] == pairs[1] and rest[0] == rest[1]


@pytest.mark.parametrize(
    "held",
    [
        WHOLE,
        Held(),
        replace(WHOLE, upcoming=None, former=()),
        replace(WHOLE, leaf=None, signer=None),
        replace(WHOLE, signs_since=NOW + timedelta(microseconds=7)),
    ],
)
def test_what_is_written_is_read_again(held: Held) -> None:
    assert same(read_held(written(held), SOURCE), held)
    assert same(read_held(written(held, written()), SOURCE), replace(held, signs_since=mark(held)))


def test_a_trusted_ca_of_an_algorithm_that_is_not_known_here_stays_trusted() -> None:
    """Such a one was in the caBundle before us; API servers may know more algorithms than we."""
    p256, unknown = (bytes.fromhex(f"06082a8648ce3d0301{last}") for last in ("07", "7f"))
    der = FORMER.certificate.public_bytes(Encoding.DER).replace(p256, unknown)
    odd = x509.load_der_x509_certificate(der)
    with pytest.raises(UnsupportedAlgorithm):
        odd.public_key()
    held = replace(WHOLE, former=(odd,))
    assert same(read_held(written(held), SOURCE), held)
    without = written(held)
    without["data"]["ca.crt"] = base64.b64encode(certificates_pem([odd])).decode()
    found = read_held(without, SOURCE)
    assert (found.signer, found.former) == (None, (odd,))


def mark(held: Held) -> Any:
    """An annotation that is there is not taken away."""
    return held.signs_since or WHOLE.signs_since


def test_other_tools_understand_it() -> None:
    secret = written()
    assert secret["type"] == "kubernetes.io/tls"
    assert {*secret["data"]} == {"tls.crt", "tls.key", "ca.crt", "ca.key", "next-ca.key"}
    assert base64.b64decode(secret["data"]["ca.crt"]) == WHOLE.bundle
    assert WHOLE.bundle == UPCOMING.pem + SIGNER.pem + certificates_pem([FORMER.certificate])
    # The type demands these two, even where there is no certificate yet.
    assert {*written(Held())["data"]} == {"tls.crt", "tls.key", "ca.crt"}


def test_what_others_added_stays_and_so_does_the_version() -> None:
    previous = written()
    previous["metadata"] |= {
        "resourceVersion": "7",
        "annotations": {"a": "1"},
        "ownerReferences": [],
    }
    previous["metadata"]["labels"] |= {"team": "mesh"}
    previous["data"]["more"] = "eA=="
    before = copy.deepcopy(previous)
    secret = written(replace(WHOLE, upcoming=None), previous)
    assert previous == before
    assert secret["metadata"]["resourceVersion"] == "7"
    assert secret["metadata"]["annotations"]["a"] == "1"
    assert secret["metadata"]["labels"]["team"] == "mesh"
    assert secret["data"]["more"] == "eA=="
    assert "next-ca.key" not in secret["data"]


@pytest.mark.parametrize(
    ("key", "content", "lost", "sentence"),
    [
        ("tls.crt", b"", "leaf", "tls.crt: is empty"),
        ("tls.key", b"nonsense", "leaf", "tls.key: not a PEM private key"),
        ("tls.key", issue_serving(SIGNER, ["a"], NOW).key, "leaf", "does not belong"),
        ("ca.key", b"nonsense", "signer", "ca.key: not a PEM private key"),
        ("ca.key", issue_serving(SIGNER, ["a"], NOW).key, "signer", "is the key of no certificate"),
        ("ca.key", b"", "signer", ""),
        ("next-ca.key", b"\xff", "upcoming", "next-ca.key: not a PEM private key"),
        ("ca.crt", b"nonsense", "signer", "ca.crt: not PEM certificates"),
    ],
)
def test_damage_takes_nothing_else_along_and_is_told(
    key: str, content: bytes, lost: str, sentence: str
) -> None:
    secret = written()
    secret["data"][key] = base64.b64encode(content).decode()
    held = read_held(secret, SOURCE)
    assert getattr(held, lost) is None
    assert all(fault.startswith(f"{SOURCE}/") for fault in held.faults)
    assert sentence in " ".join(held.faults)
    assert (held.leaf is None) == (lost == "leaf")
    if key != "ca.crt":
        # A CA without its key is still trusted.
        assert {*held.trusted} == {*WHOLE.trusted}


@pytest.mark.parametrize("data", ["***", "aGFsZg"])
def test_what_is_not_even_base64_is_told(data: Any) -> None:
    secret = written()
    secret["data"]["tls.crt"] = data
    held = read_held(secret, SOURCE)
    assert held.leaf is None
    assert any("tls.crt: not base64" in fault for fault in held.faults)


@pytest.mark.parametrize("since", ["yesterday", "", 7, None])
def test_a_time_that_cannot_be_read_is_none(since: Any) -> None:
    secret = written()
    secret["metadata"]["annotations"]["meshgraft.io/ca-signs-since"] = since
    assert read_held(secret, SOURCE).signs_since is None


def test_a_secret_of_somebody_else_is_refused_with_the_ways_out() -> None:
    secret = written()
    del secret["metadata"]["labels"]
    with pytest.raises(
        ForeignSecretError, match=r"left as it is: serve it with --cert-dir, delete"
    ):
        read_held(secret, SOURCE)


def test_an_empty_secret_is_taken_whoever_made_it() -> None:
    """RBAC cannot allow the making of one Secret by name: so somebody may make it beforehand."""
    secret = {"metadata": {"name": "certs"}, "data": {"tls.crt": "", "tls.key": ""}}
    assert read_held(secret, SOURCE) == Held()
