"""The errors of the dataplane: what went wrong in a pod's network namespace, said to an operator.

Every error keeps what caused it (``raise ... from``), so that a log can show both the sentence
and the kernel's own words.
"""

from __future__ import annotations

from vocabulary.errors import MeshgraftError


class DataplaneError(MeshgraftError):
    """A pod's traffic rules could not be read, set or removed.

    The text is for an operator: what was being done, what the kernel said, what to look at.
    After this error the namespace holds the rules from before, whole, unless the text says
    otherwise.
    """


class UnavailableError(DataplaneError):
    """This kernel (or this installation) lacks what the backend needs; the other one may work."""


class InvalidRedirectError(DataplaneError):
    """A Redirect holds what no rule can be made of, such as a subnet that is not a CIDR."""


class NetnsError(DataplaneError):
    """The network namespace cannot be opened or entered: gone, not a netns, or no permission."""


class NftError(DataplaneError):
    """nftables refused a transaction, or did not answer; names the object that it stumbled on."""


class LegacyError(DataplaneError):
    """libiptc or libxtables refused a table; names the family and the rule where known."""


class WorkerDiedError(LegacyError):
    """The worker process of the legacy backend ended in the middle of a request.

    Whether the rules were set is unknown. The next request starts a new worker, and applying
    is idempotent, so the answer for a caller is: try again.
    """
