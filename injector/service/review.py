"""AdmissionReview, the question of the API server and our answer, as typed values.

Version v1 is spoken, v1beta1 understood and answered as such. Source: k8s.io/api/admission/v1.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from injector.core.model import Object
from injector.core.owners import ObjectMeta
from injector.core.schema import malformed

MAX_BODY_BYTES = 7 * 1024 * 1024 // 2
"""The API server takes no more than 3 MiB for one object, and a creation has no second one."""
MAX_WARNING_CHARS = 256
"""The length that Kubernetes recommends, and cuts to where there are many."""
MAX_WARNINGS = 12
"""Twelve of 256 characters stay below the 4096 that the API server passes on in all."""

_API_VERSIONS = ("admission.k8s.io/v1", "admission.k8s.io/v1beta1")


class ReviewError(ValueError):
    """The request is no AdmissionReview that can be answered; the sender is at fault.

    ``status`` is the HTTP status, ``cause`` a short code for the metric.
    """

    status = 400
    cause = "bad_request"


class BodyTooLargeError(ReviewError):
    """The body is longer than `MAX_BODY_BYTES`."""

    status = 413
    cause = "too_large"

    def __init__(self) -> None:
        super().__init__(f"the body is longer than {MAX_BODY_BYTES / 1024 / 1024:g} MiB")


class GroupVersionKind(msgspec.Struct, frozen=True):
    """What kind of object is asked about."""

    kind: str
    group: str = ""
    version: str = ""


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    uid: str
    kind: GroupVersionKind
    namespace: str = ""
    name: str = ""
    operation: str = "CREATE"
    sub_resource: str = ""
    dry_run: bool | None = None
    object: dict[str, Any] | None = None


class _Review(msgspec.Struct, frozen=True, rename="camel"):
    kind: str = ""
    api_version: str = ""
    request: _Request | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One question: the object as the API server sent it, and where it comes from."""

    api_version: str
    uid: str
    kind: GroupVersionKind
    namespace: str
    operation: str
    subresource: str
    dry_run: bool
    object: Object
    meta: ObjectMeta
    name: str
    """The object's name, or its generateName where the API server has yet to make one."""

    @property
    def ref(self) -> str:
        """``namespace/name``, as Kubernetes' structured logs name an object."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


_decoder = msgspec.json.Decoder(_Review)


def _parse(body: bytes) -> _Review:
    if not body.strip():
        raise ReviewError("the body is empty; an AdmissionReview is expected")
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ReviewError(f"the body is not an AdmissionReview: {error}") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ReviewError(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise ReviewError("the body is nested too deeply") from error


def decode(body: bytes) -> Review:
    """The question in a request's body; fields that are not needed are ignored.

    Raises:
        ReviewError: empty, not JSON, not an AdmissionReview, no request, no uid, no object, or
            a malformed one.
        BodyTooLargeError: longer than `MAX_BODY_BYTES`.
    """
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLargeError
    review = _parse(body)
    if review.kind != "AdmissionReview" or review.api_version not in _API_VERSIONS:
        raise ReviewError(
            f"the body is of kind {review.kind!r} and apiVersion {review.api_version!r}; "
            f"an AdmissionReview of {' or '.join(_API_VERSIONS)} is expected"
        )
    if review.request is None:
        raise ReviewError("the AdmissionReview has no request")
    return _typed(review.api_version, review.request)


def _typed(api_version: str, request: _Request) -> Review:
    if not request.uid:
        raise ReviewError("the AdmissionReview's request has no uid")
    if request.object is None:
        raise ReviewError(
            f"the request's object is null (operation {request.operation}); "
            "this webhook answers for objects that are being created"
        )
    meta = _checked(request.object)
    return Review(
        api_version=api_version,
        uid=request.uid,
        kind=request.kind,
        # The request's namespace counts, not the object's: kubectl need not have set the latter.
        namespace=request.namespace,
        operation=request.operation,
        subresource=request.sub_resource,
        dry_run=bool(request.dry_run),
        object=request.object,
        meta=msgspec.structs.replace(meta, namespace=request.namespace),
        name=request.name or meta.display_name,
    )


class _Object(msgspec.Struct, frozen=True):
    kind: str = ""
    metadata: ObjectMeta = ObjectMeta()


def _checked(raw: Object) -> ObjectMeta:
    try:
        typed = msgspec.convert(raw, _Object)
    except msgspec.ValidationError as error:
        raise ReviewError(f"the request's object is malformed: {error}") from error
    wrong = malformed(typed.kind, raw)
    if wrong:
        raise ReviewError(f"the request's object is a malformed {typed.kind}: {wrong}")
    return typed.metadata


class _Response(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    uid: str
    allowed: bool
    patch_type: str | None = None
    patch: str | None = None
    warnings: list[str] = []
    audit_annotations: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is sent back: always "allowed", since this webhook never denies a pod."""

    patch: Sequence[Object] = ()
    """JSON Patch operations (RFC 6902)."""
    warnings: Sequence[str] = ()
    """Sentences that ``kubectl`` shows to whoever made the object."""
    audit: Mapping[str, str] = field(default_factory=dict)
    """Goes to the API server's audit log, under the webhook's name."""


def encode(review: Review, answer: Answer) -> bytes:
    """The AdmissionReview that answers ``review``, in the version in which it was asked."""
    response = _Response(
        uid=review.uid,
        allowed=True,
        warnings=bounded_warnings(answer.warnings),
        audit_annotations=answer.audit,
    )
    if answer.patch:
        response.patch_type = "JSONPatch"
        response.patch = base64.b64encode(msgspec.json.encode(list(answer.patch))).decode()
    return msgspec.json.encode(
        {"apiVersion": review.api_version, "kind": "AdmissionReview", "response": response}
    )


def shorten(text: str, limit: int = MAX_WARNING_CHARS) -> str:
    """The text on one line and within ``limit`` characters, cut with an ellipsis.

    Control characters are escaped: a warning becomes an HTTP header, and the API server drops
    one that holds any.
    """
    # Cut first as well: a value may be 256 KiB long, and escaping looks at each character.
    line = "".join(_printable(char) for char in text[: limit + 1])
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _printable(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def bounded_warnings(warnings: Sequence[str]) -> list[str]:
    """The warnings, each shortened, none twice; what is over `MAX_WARNINGS` is counted."""
    unique = list(dict.fromkeys(filter(None, warnings)))
    if len(unique) > MAX_WARNINGS:
        more = len(unique) - MAX_WARNINGS + 1
        unique[MAX_WARNINGS - 1 :] = [f"and {more} more warnings"]
    return list(dict.fromkeys(map(shorten, unique)))
