"""The forms that Envoy's configuration repeats: an extension with its type, an address, a file."""

from pathlib import Path

from .settings import Address
from .yaml_text import Data

TYPE = "type.googleapis.com/envoy."


def extension(name: str, kind: str, **fields: Data) -> dict[str, Data]:
    """An extension by its name, the type of its configuration below ``envoy.``, and the fields of this."""
    return {"name": name, "typed_config": {"@type": TYPE + kind, **fields}}


def socket_address(address: Address) -> dict[str, Data]:
    """A TCP address."""
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def file_source(path: Path) -> dict[str, Data]:
    """A file on Envoy's machine."""
    return {"filename": str(path)}
