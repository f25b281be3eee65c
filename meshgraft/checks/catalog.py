"""All checks, in the order in which they are asked."""

from __future__ import annotations

from meshgraft.checks.certificates import WEBHOOK_TLS
from meshgraft.checks.cni import LINKERD_CNI_PLUGIN
from meshgraft.checks.data_plane import LINKERD_IDENTITY, MESHGRAFT_DATA_PLANE
from meshgraft.checks.installation import (
    CONTROL_PLANE_VERSION,
    HA_CHECKS,
    MESHGRAFT_CONFIG,
    MESHGRAFT_EXISTENCE,
)
from meshgraft.checks.kubernetes import KUBERNETES_API, KUBERNETES_VERSION, PRE_SETUP
from meshgraft.checks.mesh import MESHGRAFT_MESH
from meshgraft.checks.webhook import WEBHOOK_CONFIG

CATEGORIES = (
    KUBERNETES_API,
    KUBERNETES_VERSION,
    PRE_SETUP,
    MESHGRAFT_CONFIG,
    MESHGRAFT_EXISTENCE,
    LINKERD_CNI_PLUGIN,
    MESHGRAFT_MESH,
    WEBHOOK_CONFIG,
    WEBHOOK_TLS,
    CONTROL_PLANE_VERSION,
    HA_CHECKS,
    LINKERD_IDENTITY,
    MESHGRAFT_DATA_PLANE,
)
