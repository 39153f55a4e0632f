"""The part of Sparkplug B's protobuf message that readings need, as a descriptor built here.

It is the specification's `Payload` with fewer fields: protobuf skips those it is not told of, so data sets and
templates cost nothing, and nothing nests. Field numbers: Sparkplug 3.0, chapter 6.4.
"""

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "greenlang_iot.sparkplug"
_Field = descriptor_pb2.FieldDescriptorProto
VALUES: Final = (
    ("int_value", 10, _Field.TYPE_UINT32),
    ("long_value", 11, _Field.TYPE_UINT64),
    ("float_value", 12, _Field.TYPE_FLOAT),
    ("double_value", 13, _Field.TYPE_DOUBLE),
    ("boolean_value", 14, _Field.TYPE_BOOL),
    ("string_value", 15, _Field.TYPE_STRING),
)
"""The choices of a metric's oneof `value` that can be told apart; others are no value at all for us."""
_MESSAGES: Final[dict[str, tuple[tuple[str, int, Any], ...]]] = {
    "Payload": (
        ("timestamp", 1, _Field.TYPE_UINT64),  # ms since 1970
        ("metrics", 2, "Metric"),
        ("seq", 3, _Field.TYPE_UINT64),
        ("uuid", 4, _Field.TYPE_STRING),
        ("body", 5, _Field.TYPE_BYTES),
    ),
    "Metric": (
        ("name", 1, _Field.TYPE_STRING),
        ("alias", 2, _Field.TYPE_UINT64),
        ("timestamp", 3, _Field.TYPE_UINT64),
        ("datatype", 4, _Field.TYPE_UINT32),
        ("is_null", 7, _Field.TYPE_BOOL),
        ("properties", 9, "PropertySet"),
        *VALUES,
    ),
    "PropertySet": (("keys", 1, _Field.TYPE_STRING), ("values", 2, "PropertyValue")),
    "PropertyValue": (
        ("int_value", 3, _Field.TYPE_UINT32),
        ("long_value", 4, _Field.TYPE_UINT64),
    ),
}
"""Message → its fields: name, number and type, which may be another message."""
_REPEATED = ("metrics", "keys", "values")


def _payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="greenlang_iot/sparkplug_b.proto", package=_PACKAGE, syntax="proto2"
    )
    for message, fields in _MESSAGES.items():
        made = file.message_type.add(name=message)
        for name, number, kind in fields:
            repeated = name in _REPEATED
            field = made.field.add(
                name=name,
                number=number,
                label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
            )
            if isinstance(kind, str):
                field.type = _Field.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{kind}"
            else:
                field.type = kind
            if message == "Metric" and (name, number, kind) in VALUES:
                field.oneof_index = 0
        if message == "Metric":
            made.oneof_decl.add(name="value")
    pool = descriptor_pool.DescriptorPool()  # of its own: others may register Sparkplug, too
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Payload"))


Payload: Any = _payload_class()
