"""A profile that one module brings: what a stranger would write to add a kind of proxy."""

from __future__ import annotations

from injector.core.marks import PROFILE, Marks
from injector.core.model import Additions, BuildInput

PROXY, VOLUME = "fourth-proxy", "fourth-data"


class Fourth:
    """Adds a native sidecar and a volume."""

    name = "fourth"
    ignores: frozenset[str] = frozenset()
    marks = Marks(profile="fourth", proxies=frozenset((PROXY,)), volumes=frozenset((VOLUME,)))

    def build(self, given: BuildInput) -> Additions:  # noqa: ARG002
        """The same for every pod."""
        return Additions(
            proxy={"name": PROXY, "image": "fourth:1", "restartPolicy": "Always"},
            volumes=({"name": VOLUME, "emptyDir": {}},),
            annotations={PROFILE: self.name},
        )
