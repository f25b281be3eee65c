"""`Backend`: the one interface behind which nftables and legacy iptables look the same.

Imports of a backend's libraries happen when it is chosen, so that a node that uses nftables
never loads libxtables, and the other way round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from cni_plugin.dataplane.errors import UnavailableError
from cni_plugin.dataplane.socket_match import SocketMatch
from vocabulary.annotations.redirect import Redirect

if TYPE_CHECKING:
    from cni_plugin.dataplane.legacy import LegacyBackend
    from cni_plugin.dataplane.legacy_here import LegacyHere

Mode = Literal["auto", "nft", "legacy"]
MODES: tuple[Mode, ...] = ("auto", "nft", "legacy")


@runtime_checkable
class Backend(Protocol):
    """Sets, compares and removes a pod's traffic rules in the netns behind a file descriptor.

    All methods may be called from any thread, for different namespaces at the same time. They
    block, for a few milliseconds as a rule, and leave the descriptor open. All raise
    `cni_plugin.dataplane.errors.DataplaneError`.
    """

    @property
    def name(self) -> str:
        """``nft`` or ``legacy``; bounded, fit for a metric label."""

    def apply(self, netns_fd: int, redirect: Redirect) -> bool:
        """Make the rules those of ``redirect``. True if anything had to be changed."""

    def remove(self, netns_fd: int) -> bool:
        """Take away everything of ours. True if there was anything."""

    def difference(self, netns_fd: int, redirect: Redirect) -> str | None:
        """None where the rules are as they should be, else the first difference, as a sentence."""


def mode_of(linkerd_mode: str) -> Mode:
    """Our mode for a value of Linkerd's ``iptables-mode``, or for one of our own.

    ``plain`` means "whatever ``iptables`` is on the node" there; what stands behind it is a
    question to the kernel here, so it is ``auto``, as is the empty string.

    Raises:
        ValueError: not a mode that Linkerd or we know.
    """
    if linkerd_mode in ("", "plain", "auto"):
        return "auto"
    if linkerd_mode == "nft":
        return "nft"
    if linkerd_mode == "legacy":
        return "legacy"
    raise ValueError(
        f'iptables mode {linkerd_mode!r} is not known: expected "legacy", "nft", "plain" or "auto"'
    )


def choose(mode: Mode, *, once: bool = False) -> Backend:
    """The backend for ``mode``; ``auto`` takes nftables where the kernel has it. ``once`` is for a
    process that sets one pod's rules and ends.

    Raises:
        UnavailableError: the kernel or the installation lacks what the chosen mode needs.
        DataplaneError: the kernel does not tell now.
    """
    if mode == "legacy":
        return _legacy(once=once)
    from cni_plugin.dataplane import nft

    reason = nft.unavailable()
    if reason is None:
        return SocketMatch(nft.NftBackend())
    if mode == "nft":
        raise UnavailableError(f"nftables cannot be used here: {reason}")
    return _legacy(instead_of=reason, once=once)


def _legacy(instead_of: str = "", *, once: bool) -> Backend:
    """The legacy backend; ``instead_of`` says why nftables was passed over."""
    backend: LegacyHere | LegacyBackend
    if once:
        from cni_plugin.dataplane.legacy_here import LegacyHere

        backend = LegacyHere()
    else:
        from cni_plugin.dataplane.legacy import LegacyBackend

        backend = LegacyBackend()
    reason = backend.unavailable()
    if reason is None:
        return SocketMatch(backend)
    backend.close()
    also = f"; nor can nftables: {instead_of}" if instead_of else ""
    raise UnavailableError(f"legacy iptables cannot be used here: {reason}{also}")
