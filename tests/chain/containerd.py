"""A containerd of the tests' own: its folders, network, mounts and processes are all private.

It is process 1 of a PID namespace and lives in a mount and a network namespace of its own. So
nothing of it can outlive it: when it is killed (or we are), the kernel ends its shims and
containers, takes their mounts away, and with them the pods' network namespaces.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from meshgraft.lab.lab import CNI_PATHS
from meshgraft.lab.netns import Netns
from tests.chain.cri import Cri, CriError, PodSpec
from tests.chain.images import build_app, oci_archive

APP_IMAGE = "meshgraft.test/app:1"
"""The image that is always there: see `images.APP`. It is the pause container's too."""

_RUNTIMES = ("runc", "crun")  # crun refuses cgroups of version 1 and 2 side by side
_READY_SECONDS = 30.0
_CGROUPS = Path("/sys/fs/cgroup")
_numbers = itertools.count()

_CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_apparmor = true
  disable_tcp_service = true
  restrict_oom_score_adj = true  # also where we may not lower a score, as in a container
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/cni-bin"
    conf_dir = "{folder}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "{runtime}"
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{runtime}]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{runtime}.options]
    BinaryName = "{runtime}"
"""

# /run is private: shims put their sockets there, and containerd the pods' network namespaces.
_START = """\
set -e
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
exec containerd --config "$1"
"""


def missing_requirements() -> list[str]:
    """What this needs and the machine has not, each as a sentence; empty where all is there."""
    missing = []
    if os.geteuid() != 0:
        missing.append("root: containers and their namespaces need it")
    for program in ("containerd", "ctr", "unshare", "nsenter", "gcc"):
        if shutil.which(program) is None:
            missing.append(f"the program {program} (packages containerd, util-linux, gcc)")
    if not any(shutil.which(runtime) for runtime in _RUNTIMES):
        missing.append(f"one of {' and '.join(_RUNTIMES)}")
    if "overlay" not in Path("/proc/filesystems").read_text():
        missing.append("the file system overlay")
    return missing


class Containerd:
    """A running containerd and the node (a network namespace) on which it makes pods."""

    def __init__(self, folder: Path, node: Netns, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.node = node
        self.log = folder / "containerd.log"
        self.net_dir = folder / "net.d"
        self.bin_dir = folder / "cni-bin"
        self.socket = folder / "containerd.sock"
        self.cri = Cri(self.socket)
        self._process = process
        self.pid = _child(process)
        """containerd's process id, as we see it."""

    def write_network(self, conflist: Mapping[str, Any], name: str = "10-test.conflist") -> None:
        """Write the node's CNI configuration, and wait until containerd has taken it."""
        temporary = self.net_dir / f".{name}"
        temporary.write_text(json.dumps(conflist))
        temporary.rename(self.net_dir / name)
        self._wait("the network to be ready", lambda: self.cri.conditions()["NetworkReady"][0])

    def install_plugin(self, program: Path) -> None:
        """Put a CNI plugin into the bin dir."""
        temporary = self.bin_dir / f".{program.name}"
        shutil.copy(program, temporary)
        temporary.rename(self.bin_dir / program.name)

    def import_image(self, archive: Path) -> None:
        """Import an archive (OCI, or as ``docker save`` makes it) under the names in it."""
        self.ctr("images", "import", str(archive))
        for name in self.ctr("images", "ls", "-q").split():
            self._wait(f"the image {name}", functools.partial(self.cri.has_image, name))

    def ctr(self, *arguments: str, timeout: float = 120) -> str:
        """Run containerd's own client, in the Kubernetes namespace, beside containerd itself.

        Raises:
            AssertionError: it failed; the text has what it said.
        """
        done = subprocess.run(
            self._inside("ctr", "-a", str(self.socket), "-n", "k8s.io", *arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"ctr {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout

    def pod_spec(self, name: str, **settings: Any) -> PodSpec:
        """A `PodSpec` whose logs and cgroups are taken away with this containerd."""
        logs = tempfile.mkdtemp(prefix=f"logs-{name}-", dir=self.folder)
        parent = f"/{self.folder.name}"
        return PodSpec(name, cgroup_parent=parent, log_directory=logs, **settings)

    @contextlib.contextmanager
    def running_pod(self, pod: PodSpec) -> Iterator[str]:
        """The pod's id, for the length of the block; then it is stopped (CNI DEL) and removed."""
        pod_id = self.cri.run_pod(pod)
        try:
            yield pod_id
        finally:
            self.cri.remove_pod(pod_id)

    def wait_for_exit(self, container_id: str, seconds: float = 30.0) -> int:
        """The exit code of a container that ends by itself."""
        found: list[int] = []

        def has_ended() -> bool:
            code = self.cri.exit_code(container_id)
            found.extend([] if code is None else [code])
            return bool(found)

        self._wait("a container's end", has_ended, seconds)
        return found[0]

    def container_log(self, pod: PodSpec, container: str = "app") -> str:
        """What a container printed so far, stdout and stderr, without the runtime's prefixes."""
        lines = Path(pod.log_directory, f"{container}.log").read_text().splitlines(keepends=True)
        return "".join(line.split(" ", 3)[3] for line in lines)

    def netns_path(self, pod_id: str) -> Path:
        """The pod's network namespace, by a path that can be opened from outside."""
        inside = self.cri.netns_path(pod_id)
        # Through containerd's mount namespace, in which a link as /var/run would lead out of it.
        return Path(f"/proc/{self.pid}/root/run/netns", inside.name)

    def log_text(self) -> str:
        """All that containerd has logged, and what CNI plugins wrote to stderr."""
        return self.log.read_text(errors="replace")

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-r", "-m", "-n", "-p", "--", *command]

    def _wait(self, what: str, is_so: Callable[[], bool], seconds: float = _READY_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(CriError, httpx.TransportError, KeyError):
                if is_so():
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                last = "\n".join(self.log_text().splitlines()[-20:])
                raise AssertionError(f"waited for {what}; containerd's log ends with:\n{last}")
            time.sleep(0.05)

    def wait_until_ready(self) -> None:
        """Wait until calls are answered."""
        self._wait("containerd's socket", lambda: _accepts(self.socket))
        self._wait("containerd", lambda: self.cri.conditions()["RuntimeReady"][0])


@contextlib.contextmanager
def running_containerd(
    node: Netns, environment: Mapping[str, str] | None = None, runtime: str | None = None
) -> Iterator[Containerd]:
    """A containerd for the length of the block, on ``node``, with `APP_IMAGE` in it.

    ``environment`` is added to its own, which CNI plugins inherit. ``runtime`` is runc or crun;
    by default the first that is here.
    """
    runtime = runtime or next(name for name in _RUNTIMES if shutil.which(name))
    folder = Path(tempfile.mkdtemp(prefix=f"mgc-{os.getpid()}-{next(_numbers)}-"))
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, folder)
        _prepare(folder, runtime)
        process = _start(folder, node, environment or {})
        stack.callback(_reap, process)
        containerd = Containerd(folder, node, process)
        stack.callback(_kill, containerd.pid)
        stack.callback(containerd.cri.close)
        containerd.wait_until_ready()
        app = build_app(folder)
        archive = oci_archive(folder / "app.tar", APP_IMAGE, {"/app": app}, entrypoint=["/app"])
        containerd.import_image(archive)
        yield containerd


def _accepts(path: Path) -> bool:
    """Tried by hand: httpx leaves a socket behind where there is nobody to connect to."""
    with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
        sock.connect(str(path))
        return True
    return False


def _prepare(folder: Path, runtime: str) -> None:
    for name in ("net.d", "cni-bin"):
        (folder / name).mkdir()
    for plugins in CNI_PATHS:
        for plugin in plugins.glob("*"):
            link = folder / "cni-bin" / plugin.name
            if not link.exists():  # a machine may have the same plugins in both folders
                link.symlink_to(plugin)
    (folder / "config.toml").write_text(
        _CONFIG.format(folder=folder, runtime=runtime, image=APP_IMAGE)
    )


def _start(folder: Path, node: Netns, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with (folder / "containerd.log").open("wb") as log:
        return subprocess.Popen(
            [
                # Not TERM: unshare blocks it. It in turn takes containerd with it.
                *("setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={node.path}"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
                *("sh", "-c", _START, "containerd", str(folder / "config.toml")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def _child(process: subprocess.Popen[bytes], seconds: float = 10.0) -> int:
    """The one child of ``process``: what unshare started in the new namespaces."""
    deadline = time.monotonic() + seconds
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and time.monotonic() < deadline:
        if children := path.read_text().split():
            return int(children[0])
        time.sleep(0.01)
    raise AssertionError("containerd's namespaces could not be made")


def _kill(pid: int) -> None:
    """End process 1 of the PID namespace; it is gone only after all the others are."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], 30)
        finally:
            os.close(descriptor)


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)
    for parent in [*_CGROUPS.glob(f"*/{folder.name}"), *_CGROUPS.glob(folder.name)]:
        for group, _, _ in os.walk(parent, topdown=False):
            Path(group).rmdir()
