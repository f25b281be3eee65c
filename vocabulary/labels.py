"""Label values that always fit: names longer than a label may be are shortened with a hash."""

from __future__ import annotations

import hashlib

MAX_LENGTH = 63
_HASH_LENGTH = 8


def label_value(name: str) -> str:
    """A label value for the name of an object.

    Names of workloads may have 253 characters, label values 63; Linkerd sets an invalid label
    then, and no pod of that workload is ever created. The hash keeps shortened names apart.
    """
    if len(name) <= MAX_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_LENGTH]
    head = name[: MAX_LENGTH - _HASH_LENGTH - 1].rstrip("-_.")
    return f"{head}-{digest}"
