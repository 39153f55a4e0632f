"""The part of Sparkplug B's protobuf message that readings need, as a descriptor built here.

It is the specification's `Payload` with fewer fields: protobuf skips those it is not told of, so properties,
data sets and templates cost nothing and nest nowhere. Field numbers: Sparkplug 3.0, chapter 6.4.
"""

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_PAYLOAD = (
    ("timestamp", 1, _Field.TYPE_UINT64),  # ms since 1970
    ("metrics", 2, _Field.TYPE_MESSAGE),
    ("seq", 3, _Field.TYPE_UINT64),
)
_METRIC = (
    ("name", 1, _Field.TYPE_STRING),
    ("alias", 2, _Field.TYPE_UINT64),
    ("timestamp", 3, _Field.TYPE_UINT64),
    ("datatype", 4, _Field.TYPE_UINT32),
    ("is_null", 7, _Field.TYPE_BOOL),
)
VALUES: Final = (
    ("int_value", 10, _Field.TYPE_UINT32),
    ("long_value", 11, _Field.TYPE_UINT64),
    ("float_value", 12, _Field.TYPE_FLOAT),
    ("double_value", 13, _Field.TYPE_DOUBLE),
    ("boolean_value", 14, _Field.TYPE_BOOL),
    ("string_value", 15, _Field.TYPE_STRING),
)
"""The choices of the oneof `value` that can be told apart; others are no value at all for us."""


def _payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="greenlang_iot/sparkplug_b.proto", package="greenlang_iot.sparkplug", syntax="proto2"
    )
    payload = file.message_type.add(name="Payload")
    metric = payload.nested_type.add(name="Metric")
    metric.oneof_decl.add(name="value")
    for message, fields in ((payload, _PAYLOAD), (metric, (*_METRIC, *VALUES))):
        for name, number, kind in fields:
            repeated = kind == _Field.TYPE_MESSAGE
            field = message.field.add(
                name=name,
                number=number,
                type=kind,
                label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
            )
            if repeated:
                field.type_name = ".greenlang_iot.sparkplug.Payload.Metric"
            if fields is not _PAYLOAD and (name, number, kind) in VALUES:
                field.oneof_index = 0
    pool = (
        descriptor_pool.DescriptorPool()
    )  # of its own: other packages may register Sparkplug, too
    pool.Add(file)
    found = pool.FindMessageTypeByName("greenlang_iot.sparkplug.Payload")
    return message_factory.GetMessageClass(found)


Payload: Any = _payload_class()
