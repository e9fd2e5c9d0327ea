"""Protobuf messages as plain JSON: whole numbers stay numbers, which protobuf's own JSON writes as text."""

from typing import Any

from google.protobuf.message import Message


def to_plain(message: Message) -> dict[str, Any]:
    """All fields of a message by name, those with their default too; optional numbers that are not set are None."""
    return {
        field.name: _field(message, field)
        for field in message.DESCRIPTOR.fields
        if field.is_repeated or field.message_type is None or message.HasField(field.name)
    }


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return {key: _value(value[key], kind.fields_by_name["value"]) for key in sorted(value)}
    if field.is_repeated:
        return [_value(entry, field) for entry in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(value, field)


def _value(value: Any, field: Any) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return to_plain(value) if isinstance(value, Message) else value
