"""The TCP port, taken before the models are opened: an address that cannot be had is told at once."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from ..errors import StartError


@contextlib.contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """A port that no other process serves, bound for workers without listening; 0 takes a free one. Raises StartError.

    SO_REUSEPORT comes after binding: before, it would let us share the port of another server of this user.
    """
    with contextlib.ExitStack() as stack:
        try:
            for address in _addresses(host, port):
                reserved = stack.enter_context(_bound(*address, port))
                reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                port = reserved.getsockname()[1]
        except OSError as error:
            raise StartError(f"cannot listen on {host}:{port}: {error}") from error
        yield port


def check_port(host: str, port: int) -> None:
    """Raises StartError where the port cannot be had."""
    try:
        _bound(*_addresses(host, port)[0], port).close()
    except OSError as error:
        raise StartError(f"cannot listen on {host}:{port}: {error}") from error


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, address) for family, _, _, _, address in found]


def _bound(family: int, address: tuple[Any, ...], port: int) -> socket.socket:
    """A socket that has the port; raises OSError.

    SO_REUSEADDR overlooks connections that linger from an earlier server, and then would let others overlook us.
    """
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address[0], port, *address[2:]))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        bound.close()
        raise
    return bound
