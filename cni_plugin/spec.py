"""What the CNI specification fixes, and runtimes add to it: versions, a capability, error codes."""

from __future__ import annotations

from enum import IntEnum

import msgspec

SUPPORTED_VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
DEFAULT_CNI_VERSION = "1.1.0"
"""The version of an error's JSON where the configuration names none that can be read."""
ANNOTATIONS_CAPABILITY = "io.kubernetes.cri.pod-annotations"
"""The capability under which containerd (1.5 and newer) and CRI-O hand over a pod's annotations."""


class Code(IntEnum):
    """CNI's error codes (SPEC 1.1.0, "Error"); from 100 on they are a plugin's own."""

    INCOMPATIBLE_VERSION = 1
    BAD_ENVIRONMENT = 4
    IO_FAILURE = 5
    BAD_CONTENT = 6
    BAD_CONFIG = 7
    TRY_AGAIN_LATER = 11
    NOT_AVAILABLE = 50
    RULES_DIFFER = 100
    RULES_FAILED = 101
    INTERNAL = 999


class CniError(Exception):
    """An error for the runtime, and for the person who reads ``kubectl describe pod``."""

    def __init__(self, code: Code, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details

    def to_json(self, cni_version: str = DEFAULT_CNI_VERSION) -> bytes:
        """The error result that goes to stdout."""
        return msgspec.json.encode(
            {
                "cniVersion": cni_version,
                "code": int(self.code),
                "msg": self.msg,
                "details": self.details,
            }
        )
