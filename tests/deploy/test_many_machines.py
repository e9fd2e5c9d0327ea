"""Servers behind Envoy are killed, stopped, slowed down, cut off and renewed under load, and no call fails.

The suite runs the first fault where it finds Envoy. `make front` runs all, on both transports, and prints the table
of docs/many-machines.md.
"""

import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.delay import DelayingProxy
from service.options import options_of
from service.settings import Settings
from tests.deploy import namespace
from tests.deploy.fleet import FleetServer, Front, HttpLoad, Load, needs_envoy, request
from tests.deploy.test_front import EVERY

pytestmark = needs_envoy
SERVERS = 3
CALLS = 1_000 if EVERY else 300
"""Before a fault, during it and after it."""
LARGE_ROWS = 2_600
"""Of a request of 2 MB, beyond what Envoy keeps by default."""
SLOW_S, DEAF_S = 0.4, 4.0
"""A round trip to a server that is slow, and to one that is as good as gone."""


class SlowableProxy(DelayingProxy):
    """Delays nothing at first."""

    def __init__(self, address: str) -> None:
        super().__init__(address, 0)

    def slow_down(self, round_trip_s: float) -> None:
        """From now on; only ever more, or bytes would overtake each other."""
        self._delay_s = round_trip_s / 2


class Fleet:
    """Three servers, the front before them, and the load on it."""

    def __init__(self, stack: ExitStack, folder: Path, transport: str) -> None:
        self.stack, self.transport = stack, transport
        self.servers: list[FleetServer] = []
        self.calls = CALLS
        self.http = False
        """Whether the load comes by HTTP."""
        self.front: Front
        self.load: Load
        self._folder = folder

    def start(self, *options: str, payload: bytes | None = None, addresses: list[str] | None = None) -> None:
        """Servers with these options, unless there are some, the front before these addresses or theirs, and load."""
        while len(self.servers) < SERVERS:
            self.add(*options)
        given = addresses or [server.address for server in self.servers]
        front = Front(self._folder, given, "--access-log", "off", *self.http_hosts())
        self.front = self.stack.enter_context(front)
        self.load = self.stack.enter_context((HttpLoad if self.http else Load)(self.front, payload=payload))
        self.go_on()

    def http_hosts(self) -> tuple[str, ...]:
        """Where the servers have HTTP, as an option of the front; none without it."""
        if not self.http:
            return ()
        return ("--http-hosts", ",".join(each.events.await_one("listening")["http_address"] for each in self.servers))

    def go_on(self) -> None:
        """Waits for so many more calls as stand before a fault, during it and after it."""
        self.load.await_calls(self.calls)

    def add(self, *options: str, within: tuple[str, ...] = ()) -> None:
        """One more server."""
        server = FleetServer(*options, transport=self.transport, within=within)
        self.servers.append(self.stack.enter_context(server))

    def renew(self, *numbers: int) -> None:
        """Starts servers that have ended anew, on their ports, and waits until all get calls."""
        for number in numbers:
            self.servers[number] = self.stack.enter_context(self.servers[number].again())
        self.front.await_healthy(SERVERS)


def kill(fleet: Fleet) -> None:
    """One is killed, another ends by SIGTERM, and both are started again."""
    fleet.start()
    fleet.servers[1].process.kill()
    fleet.go_on()
    assert fleet.servers[2].terminate() == 0
    fleet.go_on()
    fleet.renew(1, 2)


def kill_two(fleet: Fleet) -> None:
    """Two of three are killed at once."""
    fleet.start()
    for server in fleet.servers[:2]:
        server.process.kill()


def kill_beside_large_calls(fleet: Fleet) -> None:
    """One is killed while each call has 2 MB."""
    rows, fleet.calls = str(LARGE_ROWS), CALLS // 10
    fleet.start(
        "--max-batch-rows", rows, "--max-queue-rows", "20000", "--max-queue-ms", "10000", payload=request(LARGE_ROWS)
    )
    fleet.servers[1].process.kill()


def end_beside_http(fleet: Fleet) -> None:
    """Two end by SIGTERM, one after the other, and calls come by HTTP."""
    start_http(fleet)
    for server in fleet.servers[:2]:
        assert server.terminate() == 0
        fleet.go_on()


def start_http(fleet: Fleet) -> None:
    """Load by HTTP."""
    if "http_port" not in options_of(Settings):
        pytest.skip("this server has no HTTP")
    fleet.http = True
    fleet.start("--http-port", "0")


def stop_beside_http(fleet: Fleet) -> None:
    """One stands still (SIGSTOP), and calls come by HTTP."""
    start_http(fleet)
    fleet.servers[0].process.send_signal(signal.SIGSTOP)
    fleet.front.await_healthy(SERVERS - 1)
    fleet.go_on()
    fleet.servers[0].process.send_signal(signal.SIGCONT)


def stop(fleet: Fleet) -> None:
    """One stands still (SIGSTOP) until the front has left it out, and goes on."""
    fleet.start()
    fleet.servers[0].process.send_signal(signal.SIGSTOP)
    fleet.front.await_healthy(SERVERS - 1)
    fleet.go_on()
    fleet.servers[0].process.send_signal(signal.SIGCONT)
    fleet.front.await_healthy(SERVERS)


def slow(fleet: Fleet, round_trip_s: float = SLOW_S) -> None:
    """Each call to one takes 0.4 s longer."""
    for _ in range(SERVERS):
        fleet.add()
    first, *others = (server.address for server in fleet.servers)
    proxy = fleet.stack.enter_context(SlowableProxy(first))
    fleet.start(addresses=[proxy.address, *others])
    proxy.slow_down(round_trip_s)


def deaf(fleet: Fleet) -> None:
    """Each sign of life of one takes 4 s."""
    slow(fleet, DEAF_S)
    fleet.front.await_healthy(SERVERS - 1)


def partition(fleet: Fleet) -> None:
    """The wire to one is cut until the front has left it out, and mended."""
    if reason := namespace.why_not():
        pytest.skip(reason)
    machines = [fleet.stack.enter_context(namespace.Namespace(number)) for number in range(SERVERS)]
    for machine in machines:
        fleet.add("--host", machine.address, within=machine.within)
    fleet.start()
    machines[0].cut()
    fleet.front.await_healthy(SERVERS - 1)
    fleet.go_on()
    machines[0].join()
    fleet.front.await_healthy(SERVERS)


def rolling_restart(fleet: Fleet) -> None:
    """One after another ends by SIGTERM, and is started again."""
    fleet.start()
    for number in range(SERVERS):
        assert fleet.servers[number].terminate() == 0
        fleet.renew(number)
        fleet.go_on()


SLOW_FAULTS = (rolling_restart, kill_two, kill_beside_large_calls, stop, slow, deaf, partition)
FAULTS = (kill, *((*SLOW_FAULTS, end_beside_http, stop_beside_http) if EVERY else ()))


def report(title: str, fleet: Fleet) -> None:
    """A line of the table of docs/many-machines.md."""
    load = fleet.load
    failed, repeated = load.calls - load.codes["OK"], fleet.front.counter("upstream_rq_retry", http=fleet.http)
    cells = title, fleet.transport, f"{load.calls:,}", f"{failed:,}", f"{repeated:,}", f"{load.longest_s:.2f}"
    print(f"\n| {' | '.join(cells)} |")  # noqa: T201 - for the page


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("transport", ["native", "grpcio"] if EVERY else ["native"])
def test_no_call_fails(fault: Callable[[Fleet], None], transport: str, tmp_path: Path) -> None:
    """Of callers that retry nothing, none fails while a server is lost and comes back."""
    with ExitStack() as stack:
        fleet = Fleet(stack, tmp_path, transport)
        fault(fleet)
        fleet.go_on()
        report(str(fault.__doc__).rstrip("."), fleet)
        assert fleet.load.failures == {}
