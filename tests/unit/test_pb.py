"""The generated messages are Triton's, on the wire and beside tritonclient in one process."""

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from tritonclient.grpc import model_config_pb2 as triton_config
from tritonclient.grpc import service_pb2 as triton

from mesh.pb import inference_pb2, model_config_pb2

MESSAGES = [
    *((inference_pb2, triton, name) for name in triton.DESCRIPTOR.message_types_by_name),
    *(
        (model_config_pb2, triton_config, name)
        for name in triton_config.DESCRIPTOR.message_types_by_name
    ),
]


def shape(message: Descriptor) -> dict[str, object]:
    return {
        "fields": {field.name: field_shape(field) for field in message.fields},
        "nested": {nested.name: shape(nested) for nested in message.nested_types},
        "enums": {
            enum.name: {value.name: value.number for value in enum.values}
            for enum in message.enum_types
        },
    }


def field_shape(field: FieldDescriptor) -> tuple[object, ...]:
    kind = field.message_type or field.enum_type
    oneof = field.containing_oneof.name if field.containing_oneof else None
    return field.number, field.type, field.is_repeated, kind and kind.full_name, oneof


@pytest.mark.parametrize(("ours", "theirs", "name"), MESSAGES, ids=lambda value: str(value)[-40:])
def test_every_message_has_tritons_fields(ours, theirs, name: str) -> None:
    mine = ours.DESCRIPTOR.message_types_by_name[name]
    assert shape(mine) == shape(theirs.DESCRIPTOR.message_types_by_name[name])


def test_the_service_has_tritons_methods() -> None:
    def methods(module) -> dict[str, tuple[object, ...]]:
        service = module.DESCRIPTOR.services_by_name["GRPCInferenceService"]
        return {
            method.name: (
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
            for method in service.methods
        }

    assert methods(inference_pb2) == methods(triton)
