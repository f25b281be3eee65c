"""Single objects, read and written whole, so that of two writers at once only one succeeds."""

from __future__ import annotations

from dataclasses import dataclass

from kubeapi.client import ApiServer, ApiServerError, is_name
from kubeapi.reading import JSON, Kind, Object, decode
from vocabulary.errors import MeshgraftError


class RefError(MeshgraftError, ValueError):
    """Not the name of an object; the text says which and what is expected."""


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """Which object: for instance ``ObjectRef(SECRETS, "shop-tls", "shop")``."""

    kind: Kind
    name: str
    namespace: str = ""
    """Empty for what stands in no namespace."""

    def __post_init__(self) -> None:
        """Whoever chose the names must not lead us to another path.

        Raises:
            RefError: one of them cannot be a name.
        """
        for name in filter(None, (self.namespace, self.name or " ")):
            if not is_name(name):
                raise RefError(f"{name.strip()!r} cannot be the name of an object")

    def __str__(self) -> str:
        """As kubectl writes it: ``secrets shop/shop-tls``."""
        return f"{self.kind.plural} {self.namespace and self.namespace + '/'}{self.name}"

    @property
    def collection(self) -> str:
        """The path of all such objects (of that namespace)."""
        return self.kind.path(self.namespace)

    @property
    def path(self) -> str:
        """The path of this one."""
        return self.kind.path(self.namespace, self.name)

    @property
    def selector(self) -> dict[str, str]:
        """Parameters of a list or watch of this one alone, as RBAC's resourceNames allow it."""
        return {"fieldSelector": f"metadata.name={self.name}"}


def parse_ref(text: str, kind: Kind) -> ObjectRef:
    """The object that ``NAMESPACE/NAME`` means.

    Raises:
        RefError: it is something else.
    """
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name):
        raise RefError(f"{text!r} is not NAMESPACE/NAME")
    return ObjectRef(kind, name, namespace)


async def read(api: ApiServer, ref: ObjectRef) -> Object | None:
    """The object as it is now (not as some cache knows it); None where there is none.

    Raises:
        ApiServerError: the API server refused, did not answer, or answered something else.
    """
    try:
        return decode(await api.get(ref.path, accept=JSON))
    except ApiServerError as error:
        if error.status == 404:
            return None
        raise


async def write(api: ApiServer, ref: ObjectRef, obj: Object) -> None:
    """Put the object in place of the one that was read; create it where it has no resourceVersion.

    Raises:
        ApiServerError: with status 409 where somebody else has written or created it meanwhile;
            or the API server refused, or did not answer.
    """
    if obj["metadata"].get("resourceVersion"):
        await api.send("PUT", ref.path, obj)
    else:
        await api.post(ref.collection, obj)
