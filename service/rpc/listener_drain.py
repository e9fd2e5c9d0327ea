"""Takes a listening server out of a port that others go on serving, without losing a connection or a request.

A listener goes with the connections that wait in its queue, and grpcio's ``stop`` with the calls on their way (of
37,942 requests by four clients 66, in three renewals of two workers). So it is done here, at this process's own
sockets, which /proc/self/fd lists:

1. A filter drops what would open a connection at this listener, which the kernel chose for it among those that share
   the port. The client's kernel repeats that packet after a second, and by then others are left to choose from.
2. When the handshakes under way are over and accepted, the listener is closed.
3. Each connection is sent HTTP/2's GOAWAY for the highest stream there can be: its client opens no more requests on
   it, gets the answers to all that it has sent, and closes it (https://www.rfc-editor.org/rfc/rfc9113#section-6.8).

The native transport does the third itself. On grpcio, whose connections we must write to behind its back, GOAWAY must
not come in the middle of another frame. A frame is written by one system call, and only one that finds
the send buffer full leaves a rest behind; so GOAWAY is written when that buffer is empty.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HANDSHAKE_S = 0.5
"""What handshakes under way have to finish; a dropped packet must not be repeated before (after 1 s, RFC 6298)."""
POLL_S = 0.02
GOAWAY = struct.pack(">HBBBIII", 0, 8, 7, 0, 0, 2**31 - 1, 0)
"""8 octets of type GOAWAY, no flags, on stream 0: the last stream is 2³¹-1, and there was no error."""
SO_ATTACH_FILTER = 26
SIOCOUTQ = 0x5411
BYTES_ACKED = 120
"""Where tcp_info (linux/tcp.h) has the number of octets that the peer has acknowledged, 64 bits."""
FRAME_HEADER = 9

# Classic BPF on the TCP header: SYN without ACK, in the flags of octet 13, is dropped; all else is accepted.
DROP_SYN = (
    (0x30, 0, 0, 13),  # load octet 13
    (0x54, 0, 0, 0x12),  # keep ACK and SYN
    (0x15, 0, 1, 0x02),  # SYN alone? else skip one
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFFFFFF),
)


def close_listener(port: int) -> None:
    """Closes this process's listeners on the port; takes HANDSHAKE_S."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in DROP_SYN))
    drop_syn = struct.pack("@HP", len(DROP_SYN), ctypes.addressof(code))
    for _, listener in _sockets(port, listening=True):
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, drop_syn)
    time.sleep(HANDSHAKE_S)
    with socket.socket() as never_ready:
        for number, _ in _sockets(port, listening=True):
            # Takes the listener's place in the library, which goes on to wait on its number.
            os.dup2(never_ready.fileno(), number, inheritable=False)


def send_goaway_all(port: int, timeout_s: float, abort: Callable[[], bool], *, told: bool = False) -> bool:
    """Tells the clients on the port to go, and serves them until they have; False if they have not in time.

    Gives up early where ``abort`` says so. ``told``: it is the library that tells them, by a connection's age;
    into TLS we cannot write.
    """
    ends = time.monotonic() + timeout_s
    sent: set[int] = set()
    while True:
        left = 0
        for _, connection in _sockets(port, listening=False):
            left += 1
            identity = os.fstat(connection.fileno()).st_ino
            with contextlib.suppress(OSError):  # it has just gone
                if not told and identity not in sent and _between_frames(connection):
                    connection.send(GOAWAY, socket.MSG_DONTWAIT)
                    sent.add(identity)
        if not left:
            return True
        if time.monotonic() > ends or abort():
            return False
        time.sleep(POLL_S)


def count_connections(port: int) -> int:
    """Returns how many connections this process has on the port."""
    return sum(1 for _ in _sockets(port, listening=False))


def _between_frames(connection: socket.socket) -> bool:
    """Whether the connection has begun, and all that was written to it has arrived."""
    unacknowledged: int = struct.unpack("i", fcntl.ioctl(connection, SIOCOUTQ, bytes(4)))[0]
    information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED + 8)
    acknowledged: int = struct.unpack_from("Q", information, BYTES_ACKED)[0]
    return unacknowledged == 0 and acknowledged >= FRAME_HEADER


def _sockets(port: int, *, listening: bool) -> Iterator[tuple[int, socket.socket]]:
    """Our TCP sockets on the local port, each with its number, and as a duplicate open for one turn of a loop."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            number = os.dup(int(entry.name))
        except OSError:
            continue  # closed since
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            os.close(number)
            continue
        with socket.socket(fileno=number) as duplicate:
            if duplicate.family not in (socket.AF_INET, socket.AF_INET6) or duplicate.getsockname()[1] != port:
                continue
            if bool(duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) == listening:
                yield int(entry.name), duplicate
