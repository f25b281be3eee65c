"""The profiles by name: which kind of proxy a pod gets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from injector.core import marks
from injector.core.model import Profile
from injector.core.values import BadValues
from injector.profiles.envoy import EnvoyProfile
from injector.profiles.linkerd import LinkerdProfile
from injector.profiles.node import NodeProfile

_PROFILES: dict[str, Profile] = {}
PROFILES: Mapping[str, Profile] = MappingProxyType(_PROFILES)
"""Those that are registered, by name."""


def register(profile: Profile) -> None:
    """Make a profile known: to whoever injects, and by its marks to whoever takes that back."""
    _PROFILES[profile.name] = profile
    marks.register(profile.marks)


for _profile in (EnvoyProfile(), LinkerdProfile(), NodeProfile()):
    register(_profile)


def get_profile(name: str) -> Profile:
    """The profile called ``name``.

    Raises:
        BadValues: there is none; the text lists those that there are.
    """
    try:
        return PROFILES[name]
    except KeyError:
        known = ", ".join(sorted(PROFILES))
        raise BadValues(f'meshgraft.profile "{name}": expected one of {known}') from None
