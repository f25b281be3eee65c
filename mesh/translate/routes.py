"""RouteConfigurations: what a proxy does with a request, on its way out and on its way in."""

from __future__ import annotations

from functools import cache

from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.json_format import ParseDict

from mesh.translate.types import ROUTES, resource
from mesh.xds.messages import Key, Resource
from vocabulary.mesh import DESTINATION_HEADER, INBOUND_ROUTES, OUTBOUND_ROUTES


@cache
def outbound() -> Resource:
    """Every request goes where its connection was going: to the Cluster of that name, which is
    asked for when there is none yet."""
    route = {"cluster_header": DESTINATION_HEADER, "timeout": "0s"}
    made = {
        "name": OUTBOUND_ROUTES,
        "vhost_header": DESTINATION_HEADER,
        "virtual_hosts": [_any(route)],
        "validate_clusters": False,
        "request_headers_to_remove": [DESTINATION_HEADER],
    }
    return _resource(made, OUTBOUND_ROUTES)


@cache
def inbound() -> Resource:
    """Every request goes to the application."""
    made = {
        "name": INBOUND_ROUTES,
        "virtual_hosts": [_any({"cluster": "inbound", "timeout": "0s"})],
        "validate_clusters": True,
    }
    return _resource(made, INBOUND_ROUTES)


def _any(route: object) -> dict[str, object]:
    matches: tuple[dict[str, object], ...] = ({"connect_matcher": {}}, {"prefix": "/"})
    routes = [{"name": "default", "match": match, "route": route} for match in matches]
    return {"name": "any", "domains": ["*"], "routes": routes}


def _resource(made: dict[str, object], name: str) -> Resource:
    return resource(
        Key(ROUTES, name), ParseDict(made, RouteConfiguration()), source=f"the routes of {name}"
    )
