"""`SocketMatch`: a backend that does without the kernel's socket match where that is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cni_plugin.dataplane.errors import DataplaneError
from vocabulary.annotations.redirect import Redirect

if TYPE_CHECKING:
    from cni_plugin.dataplane.backends import Backend


class SocketMatch:
    """Another backend, with the rules for probed ports only where the kernel takes them.

    Those alone need the match (nft_socket, xt_socket). A pod must not fail to start for want of a
    module that its rules can do without.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._has_said_so = False

    @property
    def name(self) -> str:
        return self._backend.name

    def apply(self, netns_fd: int, redirect: Redirect) -> bool:
        """As the other backend's; once more without probed ports where it fails with them.

        Raises:
            DataplaneError: as the other backend, of which the first error counts.
        """
        if not redirect.probe_ports:
            return self._backend.apply(netns_fd, redirect)
        try:
            return self._backend.apply(netns_fd, redirect)
        except DataplaneError as error:
            try:
                changed = self._backend.apply(netns_fd, without(redirect))
            except DataplaneError:
                raise error from None
            if not self._has_said_so:
                self._has_said_so = True
                import logging  # An init container never needs it, and waits for each import.

                logging.getLogger(__name__).warning(
                    "this kernel takes no socket match (nft_socket, xt_socket): behind a proxy, a "
                    "TCP probe of a port on which nothing listens succeeds here: %s",
                    error,
                )
            return changed

    def remove(self, netns_fd: int) -> bool:
        """As the other backend's."""
        return self._backend.remove(netns_fd)

    def difference(self, netns_fd: int, redirect: Redirect) -> str | None:
        """As the other backend's; rules without probed ports are right as well where they had to
        do without, whichever agent set them."""
        found = self._backend.difference(netns_fd, redirect)
        if found is None or not redirect.probe_ports:
            return found
        return self._backend.difference(netns_fd, without(redirect)) and found


def without(redirect: Redirect) -> Redirect:
    """The same without probed ports."""
    return msgspec.structs.replace(redirect, probe_ports=())
