"""The profiles by name: which kind of proxy a pod gets."""

from __future__ import annotations

from collections.abc import Mapping

from injector.core.marks import register
from injector.core.model import Profile
from injector.profiles.envoy import EnvoyProfile
from injector.profiles.linkerd import LinkerdProfile
from injector.profiles.node import NodeProfile

PROFILES: Mapping[str, Profile] = {
    profile.name: profile for profile in (EnvoyProfile(), LinkerdProfile(), NodeProfile())
}

for _profile in PROFILES.values():
    register(_profile.marks)


def get_profile(name: str) -> Profile:
    """The profile called ``name``.

    Raises:
        ValueError: there is none; the text lists those that there are.
    """
    try:
        return PROFILES[name]
    except KeyError:
        known = ", ".join(sorted(PROFILES))
        raise ValueError(f"profile {name!r} is not known; the profiles are {known}") from None
