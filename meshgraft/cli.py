"""The command line: names the commands, and turns a known error into a sentence and a code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App

from meshgraft._terminal import shown
from vocabulary.errors import MeshgraftError

app = App(
    name="meshgraft",
    help="Graft a proxy onto Kubernetes pods: a sidecar injector and a CNI plugin.",
    version_flags=["--version"],
)

# By name, so that a command loads only what it needs: a pod waits for proxy-init.
_COMMANDS = {
    "inject": "Put the proxy into manifests, or the annotations that ask the webhook for it.",
    "uninject": "Take away from manifests everything that inject added.",
    "install": "Print the manifests of the injector, for kubectl apply -f -.",
    "install-cni": "Print the manifests of the CNI plugin, for kubectl apply -f -.",
    "uninstall": "Print what an installation made, for kubectl delete -f -.",
    "webhook": "Run the admission webhook that injects the proxy.",
    "cni-agent": "Run the node's agent, which sets pods' traffic rules for the CNI plugin.",
    "control": "Run the mesh's control, which tells each node's relay what its pods' proxies use.",
    "identity": "Run the mesh's identity, which signs the keys of pods and knows who each is.",
    "relay": "Run the node's relay, by which pods' proxies reach the mesh.",
    "proxy-init": "Set the traffic rules of the pod that this runs in, as an init container.",
    "network-validator": "Check, as an init container, that the pod's traffic rules work.",
    "check": "Check an installation, or with --pre whether one can be made.",
    "audit": "Find pods that are not meshed as they should be, and say why.",
    "completion": "Print the completion script of bash, zsh or fish.",
    "demo": "Show both halves at work on this machine's own kernel, without a cluster.",
    "version": "Print the version.",
}
for _name, _help in _COMMANDS.items():
    _function = _name.replace("-", "_")
    app.command(f"meshgraft.commands.{_function}:{_function}", name=_name, help=_help)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name: those of the process, unless given."""
    try:
        code = app(arguments)
    except MeshgraftError as error:
        print(f"Error: {shown(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ImportError as error:
        if not (package := _absent(error)):
            raise
        print(
            f"Error: the Python package {package} is not here: install meshgraft with the extra"
            " `cni` (pip install -e '.[cni]' in a clone; it wants gcc and Python's headers)",
            file=sys.stderr,
        )
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _absent(error: BaseException | None) -> str | None:
    """Which package of the node half's extra could not be imported; None for another defect."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.partition(".")[0]
            if package in ("pyroute2", "iptc"):
                return package
        error = error.__cause__
    return None
