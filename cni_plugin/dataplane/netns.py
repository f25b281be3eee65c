"""Run a little code of one thread in another network namespace, and come back, always."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from cni_plugin.dataplane.errors import NetnsError

CLONE_NEWNET = 0x40000000
NETLINK_NETFILTER = 12
OWN_NETNS = "/proc/thread-self/ns/net"
OWN_USER_NAMESPACE = "/proc/thread-self/ns/user"
_NS_GET_USERNS = 0xB701
_NS_GET_NSTYPE = 0xB703
_EX_OSERR = 71

if sys.version_info >= (3, 12):
    _setns = os.setns
else:
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)  # once: opening it takes longer than the call

    def _setns(fd: int, nstype: int = 0) -> None:
        """``setns(2)`` through libc, as ``os.setns`` of Python 3.12."""
        if _libc.setns(fd, nstype) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def open_netns(path: str) -> int:
    """A descriptor for the network namespace at ``path``; the caller closes it.

    Raises:
        NetnsError: there is none, or it may not be opened.
    """
    try:
        # A pipe in that place must not hold us up.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NetnsError(
            f"cannot open the network namespace {path}: {error.strerror}; "
            "if the pod is gone, there is nothing left to do"
        ) from error


@contextlib.contextmanager
def entered(netns_fd: int) -> Iterator[None]:
    """Run the body in the network namespace behind ``netns_fd``, on the calling thread alone.

    The body must stay on this thread: no ``await``, and keep it short. Where the thread is in
    that namespace already, nothing is switched, so that an init container without
    CAP_SYS_ADMIN can use the same code.

    If the way back fails, the process is ended at once (exit code 71, a sentence on stderr): a
    thread left in a pod's namespace would put another pod's rules there, silently.

    Raises:
        NetnsError: the descriptor is not a network namespace, or may not be entered.
    """
    # Before anything is opened: a number that is closed already would be given to ``home``, and
    # the pod's rules would be set in our own namespace.
    pod = identity(netns_fd)
    _check_type(netns_fd)
    home = open_netns(OWN_NETNS)
    try:
        if identity(home) == pod:
            yield
            return
        _enter(netns_fd)
        try:
            yield
        finally:
            _return(home)
    finally:
        os.close(home)


def identity(netns_fd: int) -> tuple[int, int]:
    """What tells one network namespace from another.

    Raises:
        NetnsError: the descriptor is closed.
    """
    try:
        status = os.fstat(netns_fd)
    except OSError as error:
        raise NetnsError(f"descriptor {netns_fd} is not open: {error.strerror}") from error
    return status.st_dev, status.st_ino


def is_of_another_user_namespace(netns_fd: int) -> bool:
    """Whether the namespace belongs to a user namespace other than ours: ``hostUsers: false``."""
    owner = fcntl.ioctl(netns_fd, _NS_GET_USERNS)
    try:
        ours = Path(OWN_USER_NAMESPACE).stat()
        return identity(owner) != (ours.st_dev, ours.st_ino)
    finally:
        os.close(owner)


def _check_type(netns_fd: int) -> None:
    """Refuse all that is no network namespace: ``setns`` takes a pidfd too, and would then put
    a pod's rules into the namespace of that process, which may be the node's."""
    try:
        kind = fcntl.ioctl(netns_fd, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        raise NetnsError(
            f"descriptor {netns_fd} is not a network namespace; nothing was changed. "
            "CNI_NETNS must be the path of one"
        )


def _enter(netns_fd: int) -> None:
    try:
        _setns(netns_fd, CLONE_NEWNET)
    except OSError as error:
        raise NetnsError(
            f"cannot enter the pod's network namespace: {error.strerror}; "
            "it must be one, and CAP_SYS_ADMIN is needed"
        ) from error


def _return(home: int) -> None:
    try:
        _setns(home, CLONE_NEWNET)
    except OSError as error:
        _terminate(f"cannot leave a pod's network namespace ({error.strerror}); stopping at once")


def _terminate(text: str) -> NoReturn:
    os.write(2, f"linkerd-cni: {text}\n".encode())
    os._exit(_EX_OSERR)


def netfilter_socket(netns_fd: int) -> socket.socket:
    """A raw netlink socket to the netfilter of the namespace behind ``netns_fd``.

    A socket belongs for good to the namespace in which it was made; so only making it happens
    there, and it may be used from anywhere.

    Raises:
        NetnsError: the namespace cannot be entered, or the kernel has no netfilter netlink.
    """
    with entered(netns_fd):
        try:
            return socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
            )
        except OSError as error:
            raise NetnsError(
                f"cannot open a netfilter netlink socket: {error.strerror}; "
                "the kernel module nfnetlink is needed"
            ) from error
