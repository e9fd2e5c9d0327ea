"""How long connections may last: those that do not begin, are idle or old, and those that failed."""

from enum import Enum, auto

from .call import TransportOptions
from .peer import Peer

PREFACE_TIMEOUT_S = 30.0
"""How long a client may take to say that it speaks HTTP/2."""


class Due(Enum):
    """What is to be done about a connection."""

    NOTHING = auto()
    GOAWAY = auto()
    """The client is to be asked to connect anew."""
    END = auto()
    """What there is to say is to be sent, and the connection to be closed."""
    CLOSE = auto()


def due(peer: Peer, now: float, options: TransportOptions) -> Due:
    """Returns what is to be done about a connection at this time."""
    if peer.closes_at is not None:
        return Due.CLOSE if now > peer.closes_at else Due.NOTHING
    if not peer.http2.preface_received:
        return Due.CLOSE if now - peer.since > PREFACE_TIMEOUT_S else Due.NOTHING
    if options.connection_idle_s or options.max_connection_age_s:
        return _due_by_age(peer, now, options)
    return Due.NOTHING


def _due_by_age(peer: Peer, now: float, options: TransportOptions) -> Due:
    streams, most_s = peer.http2.streams, options.max_connection_age_s
    if peer.asked_to_go_at is not None:
        is_over = most_s and now - peer.asked_to_go_at > options.max_connection_age_grace_s
        return Due.END if is_over or not streams else Due.NOTHING
    # A tenth is added by chance, so that clients do not come back all at once.
    age_s = most_s * (1 + peer.number * 7919 % 100 / 1000)
    is_idle = options.connection_idle_s and not streams and now - peer.last_received > options.connection_idle_s
    return Due.GOAWAY if is_idle or (most_s and now - peer.since > age_s) else Due.NOTHING
