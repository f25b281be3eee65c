"""Linkerd's defaults that both halves, the charts and the reference must agree about."""

from __future__ import annotations

INBOUND_PORT = 4143
OUTBOUND_PORT = 4140
CONTROL_PORT = 4190
ADMIN_PORT = 4191
PROXY_UID = 2102
