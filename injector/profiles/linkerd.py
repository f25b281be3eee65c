"""Profile ``linkerd``: the patch of Linkerd's own injector, for clusters with its control plane."""

from __future__ import annotations

import hashlib

from injector.core.marks import Marks
from injector.core.model import Additions, BuildInput
from injector.core.redirect import redirect_for
from injector.core.values import proxy_position
from injector.profiles._linkerd_containers import (
    DEBUG,
    INIT,
    PROXY,
    VALIDATOR,
    VOLUMES,
    debug,
    init,
    proxy,
    validator,
    volumes,
)
from injector.profiles.common import convenience_annotations, owner_labels, pull_secrets
from vocabulary.annotations import REDIRECT_ANNOTATION

PROXY_VERSION = "linkerd.io/proxy-version"
TRUST_ROOT = "linkerd.io/trust-root-sha256"
_NO_OUTBOUND_SUBNETS = (
    "config.linkerd.io/skip-outbound-subnets has no effect: Linkerd's init container knows no such"
    " rule; the CNI plugin does"
)


class LinkerdProfile:
    """Linkerd's proxy as Linkerd 2.20 injects it.

    The webhook adds to that, and changes nothing of it: annotations for the CNI plugin, for
    kubectl and for the cluster autoscaler.
    """

    name = "linkerd"
    ignores: frozenset[str] = frozenset()
    marks = Marks(
        profile="linkerd",
        proxies=frozenset((PROXY,)),
        inits=frozenset((INIT,)),
        validators=frozenset((VALIDATOR,)),
        conveniences=frozenset((DEBUG,)),
        volumes=VOLUMES,
        images=("proxy", "debugContainer"),
        are_told=False,
    )

    def build(self, given: BuildInput) -> Additions:
        """The proxy, the init container that its traffic rules take, volumes and marks.

        Raises:
            BadValues: the settings are not usable (``proxyInit.iptablesMode``).
        """
        values = given.values
        added = volumes(values)
        annotations, warnings = _redirect(given)
        annotations |= convenience_annotations(given, added)
        annotations[PROXY_VERSION] = values.proxy.image.version or values.linkerd_version
        anchors = values.identity_trust_anchors_pem.encode()
        annotations[TRUST_ROOT] = hashlib.sha256(anchors).hexdigest()
        return Additions(
            proxy=proxy(given),
            position=proxy_position(values),
            init_containers=(validator(given) if values.cni_enabled else init(given),),
            containers=(debug(values),) if values.enable_debug_sidecar else (),
            volumes=added,
            annotations=annotations,
            labels=owner_labels(given),
            image_pull_secrets=pull_secrets(given),
            warnings=warnings,
        )


def _redirect(given: BuildInput) -> tuple[dict[str, str], tuple[str, ...]]:
    """The finished rules for our CNI plugin, which without them would have to ask for the pod."""
    if not given.values.cni_enabled:
        lost = given.values.meshgraft.skip_outbound_subnets
        return {}, (_NO_OUTBOUND_SUBNETS,) if lost else ()
    if given.origin.by_command:
        return {}, ()
    redirect, warnings = redirect_for(given.values, given.pod)
    return {REDIRECT_ANNOTATION: redirect.to_annotation()}, warnings
