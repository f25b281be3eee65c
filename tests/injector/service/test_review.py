"""AdmissionReview: what is accepted, what is refused in which words, and what is answered."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from injector.service.review import (
    MAX_BODY_BYTES,
    MAX_WARNING_CHARS,
    MAX_WARNINGS,
    Answer,
    BodyTooLargeError,
    ReviewError,
    bounded_warnings,
    decode,
    encode,
    shorten,
)

RECORDINGS = sorted((Path(__file__).parents[2] / "data" / "admission-reviews").glob("*.json"))


def review(**request: Any) -> dict[str, Any]:
    """A small valid AdmissionReview; ``request`` overrides its fields."""
    fields = {
        "uid": "u1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "shop",
        "name": "web-0",
        "operation": "CREATE",
        "object": {"apiVersion": "v1", "metadata": {"name": "web-0"}},
    }
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {**fields, **request},
    }


def encoded(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def without(key: str) -> dict[str, Any]:
    tree = review()
    del tree["request"][key]
    return tree


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_what_a_real_api_server_sent_is_understood(path: Path) -> None:
    recorded = json.loads(path.read_text())["request"]
    decoded = decode(path.read_bytes())
    assert decoded.uid == recorded["uid"]
    assert decoded.namespace == recorded["namespace"]
    assert decoded.kind.kind == recorded["kind"]["kind"]
    assert decoded.dry_run is recorded["dryRun"]
    assert decoded.object == recorded["object"]
    assert decoded.name


def test_recordings_are_there() -> None:
    assert len(RECORDINGS) == 19


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"kind": "\xff"}', "not JSON"),
        (b"[]", "not an AdmissionReview"),
        (b"null", "not an AdmissionReview"),
        (b"[" * 100_000, "not an AdmissionReview"),
        (b'{"x": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"request": {"object": {"x": ' + b"[" * 100_000, "nested too deeply"),
        (b"{}", "kind '' and apiVersion ''"),
        (encoded({"kind": "Pod", "apiVersion": "v1"}), "kind 'Pod' and apiVersion 'v1'"),
        (encoded({**review(), "apiVersion": "admission.k8s.io/v2"}), "admission.k8s.io/v2"),
        (encoded({**review(), "request": None}), "has no request"),
        (encoded(without("uid")), "missing required field `uid`"),
        (encoded(without("kind")), "missing required field `kind`"),
        (encoded(review(uid="")), "has no uid"),
        (encoded(review(uid=7)), "Expected `str`"),
        (encoded(review(object=None)), "object is null"),
        (encoded(review(object=None, operation="DELETE")), "operation DELETE"),
        (encoded(review(object=[])), "not an AdmissionReview"),
        (
            encoded(review(object={"metadata": None})),
            "malformed: Expected `object`, got `null` - at `$.metadata`",
        ),
        (encoded(review(object={"kind": "Pod"})), "malformed Pod: Object missing required"),
        (encoded(review(object={"metadata": {"annotations": {"a": 1}}})), "$.metadata.annotations"),
        (
            encoded(review(object={"metadata": {"ownerReferences": [{}]}})),
            "$.metadata.ownerReferences",
        ),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else None,
)
def test_what_cannot_be_answered_is_refused_with_its_reason(body: bytes, sentence: str) -> None:
    with pytest.raises(ReviewError) as refusal:
        decode(body)
    assert sentence in str(refusal.value)
    assert refusal.value.status == 400


def test_too_long_a_body_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BodyTooLargeError, match=r"3\.5 MiB") as refusal:
        decode(b" " * (MAX_BODY_BYTES + 1))
    assert refusal.value.status == 413


def test_a_pod_without_a_name_is_called_by_its_prefix() -> None:
    body = encoded(review(name="", object={"metadata": {"generateName": "web-"}}))
    assert decode(body).ref == "shop/web-"


def test_unknown_fields_and_missing_metadata_do_no_harm() -> None:
    decoded = decode(encoded(review(object={"spec": {}}, futureField={"a": [1]})))
    assert decoded.meta.annotations is None
    assert decoded.name == "web-0"


def test_the_namespace_is_the_requests_not_the_objects() -> None:
    body = encoded(review(object={"metadata": {"name": "web-0", "namespace": "other"}}))
    assert decode(body).meta.namespace == "shop"


@pytest.mark.parametrize("version", ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"])
def test_the_answer_speaks_the_version_of_the_question(version: str) -> None:
    asked = decode(encoded({**review(), "apiVersion": version}))
    answered = json.loads(encode(asked, Answer()))
    assert answered == {
        "apiVersion": version,
        "kind": "AdmissionReview",
        "response": {"uid": "u1", "allowed": True},
    }


def test_the_answer_carries_patch_warnings_and_audit() -> None:
    patch = [{"op": "add", "path": "/metadata/labels", "value": {"a": 'q"ü'}}]
    answer = Answer(patch=patch, warnings=["mind this"], audit={"result": "injected"})
    response = json.loads(encode(decode(encoded(review())), answer))["response"]
    assert response["patchType"] == "JSONPatch"
    assert json.loads(base64.b64decode(response["patch"], validate=True)) == patch
    assert response["warnings"] == ["mind this"]
    assert response["auditAnnotations"] == {"result": "injected"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", "short"),
        ("x" * 256, "x" * 256),
        ("x" * 257, "x" * 255 + "…"),
        ("a\nb\x00c", "a\\nb\\x00c"),
        ("\n" * 200, "\\n" * 127 + "\\…"),
    ],
)
def test_long_texts_are_cut_and_control_characters_escaped(text: str, expected: str) -> None:
    assert shorten(text) == expected


def test_surplus_warnings_are_counted_rather_than_dropped() -> None:
    kept = bounded_warnings([f"warning {n}" for n in range(40)])
    # What Linkerd's users see of a webhook fits a terminal, and the API server's 4 kB.
    assert len(kept) == MAX_WARNINGS == 12
    assert kept[0] == "warning 0"
    assert kept[-1] == f"and {40 - MAX_WARNINGS + 1} more warnings"


@settings(max_examples=60)
@given(st.lists(st.text(max_size=400), max_size=30))
def test_warnings_always_fit_the_api_servers_bounds(warnings: list[str]) -> None:
    kept = bounded_warnings(warnings)
    assert len(kept) <= MAX_WARNINGS
    assert sum(map(len, kept)) <= 4096
    assert all(0 < len(text) <= MAX_WARNING_CHARS and text.isprintable() for text in kept)
    assert len(set(kept)) == len(kept)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_never_a_crash(body: bytes) -> None:
    with pytest.raises(ReviewError):
        decode(body)


def test_of_a_key_that_is_there_twice_the_last_counts_as_for_the_api_server() -> None:
    body = json.dumps(review(object={"metadata": {"name": "OBJECT"}})).encode()
    twice = body.replace(b'"metadata": {"name": "OBJECT"}', b'"metadata": {}, "metadata": {"a": 1}')
    assert twice != body
    assert decode(twice).object["metadata"] == {"a": 1}
    again = body.replace(b'"uid": "u1"', b'"uid": "u1", "uid": "u2"')
    assert decode(again).uid == "u2"
