"""The annotations: the whole vocabulary that users configure a pod with, and its meaning."""

from injector.annotations.parse import (
    BadItems,
    BadValue,
    Duration,
    Quantity,
    is_port_name,
    parse_cidr_list,
    parse_duration,
    parse_int,
    parse_port_list,
    parse_quantity,
)
from injector.annotations.redirect import (
    ANNOTATION as REDIRECT_ANNOTATION,
)
from injector.annotations.redirect import (
    BadRedirect,
    PortRange,
    Redirect,
    parse_redirect,
)
from injector.annotations.table import (
    ALPHA_PREFIX,
    ANNOTATIONS,
    BETA_PREFIX,
    BY_KEY,
    CLOSE_WAIT_TIMEOUT,
    INJECT,
    NATIVE_SIDECAR,
    OPAQUE_PORTS,
    PREFIX,
    REMOVED,
    Annotation,
    is_unknown,
)

__all__ = [
    "ALPHA_PREFIX",
    "ANNOTATIONS",
    "BETA_PREFIX",
    "BY_KEY",
    "CLOSE_WAIT_TIMEOUT",
    "INJECT",
    "NATIVE_SIDECAR",
    "OPAQUE_PORTS",
    "PREFIX",
    "REDIRECT_ANNOTATION",
    "REMOVED",
    "Annotation",
    "BadItems",
    "BadRedirect",
    "BadValue",
    "Duration",
    "PortRange",
    "Quantity",
    "Redirect",
    "is_port_name",
    "is_unknown",
    "parse_cidr_list",
    "parse_duration",
    "parse_int",
    "parse_port_list",
    "parse_quantity",
    "parse_redirect",
]
