"""Messages declared in Python: the few fields of somebody's protocol that are used, and no more.

Generated classes of Envoy's whole API take 27 MiB, which a process on every node should not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
STRING, BYTES, MESSAGE, UINT32, BOOL = (
    _Field.TYPE_STRING,
    _Field.TYPE_BYTES,
    _Field.TYPE_MESSAGE,
    _Field.TYPE_UINT32,
    _Field.TYPE_BOOL,
)
REPEATED = 0x100
"""Or-ed to a type: any number of them."""

Fields = Mapping[str, tuple[int, int] | tuple[int, int, str]]


def declare(package: str, messages: Mapping[str, Fields]) -> dict[str, Any]:
    """Classes by the messages' names; each field is (number, type) or, of a message, with its name.

    A map is repeated messages of a key and a value, as it is on the wire.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"meshgraft/{package}.proto", package=f"meshgraft.{package}", syntax="proto3"
    )
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, *of) in fields.items():
            repeated = bool(kind & REPEATED)
            message.field.add(
                name=field,
                number=number,
                type=kind & ~REPEATED,
                label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
                type_name=f".{file.package}.{of[0]}" if of else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))
        for name in messages
    }
