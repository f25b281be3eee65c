"""Envoy's resource types by URL, and how a message becomes a resource."""

from __future__ import annotations

from google.protobuf.message import Message

from mesh.xds.messages import Key, Resource, digest

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


def resource(
    key: Key, message: Message, *, follows: tuple[Key, ...] = (), source: str = ""
) -> Resource:
    """The message as a resource; its version is a digest, so that replicas of control agree."""
    value = message.SerializeToString(deterministic=True)
    return Resource(key, digest(value), value, follows, source)
