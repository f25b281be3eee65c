"""A node without a cluster: pod-like namespaces, a CNI runtime, and what runs in a pod.

The demo and the dataplane tests stand on it. It needs root and makes nothing outside
namespaces, one bridge and one folder of its own; `Lab` takes all of it away again.
"""

from vocabulary.errors import MeshgraftError


class LabError(MeshgraftError):
    """Something in the lab did not work; the text says what, with the last that it printed."""
