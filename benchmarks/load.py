"""h2load (nghttp2-client): a load generator in C that costs far less than what it measures.

It looks at HTTP status only, and gRPC errors are HTTP 200, so the bytes that came back are counted too: each response
must be as long as the right one.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.processes import ServerProcess
from benchmarks.request_payload import FRAME_HEADER_BYTES, RequestPayload
from benchmarks.samples import Figures, latencies

LIMIT_S = 300.0
"""No single run takes longer, whatever happens."""
PILOT, PILOT_S = 2, 0.1
"""Requests for each stream in a first pilot run; seconds of the second, at the pace of the first."""
LEAST = 50
"""Timed requests in any case: fewer have no 99th percentile to speak of."""


@dataclass(frozen=True)
class Concurrency:
    """A closed loop: each stream sends its next request when it has its response."""

    connections: int
    streams: int
    """On each connection."""

    @property
    def in_flight(self) -> int:
        """Requests on their way at any time."""
        return self.connections * self.streams


LONE, SINGLE, BULK = Concurrency(1, 1), Concurrency(4, 16), Concurrency(4, 4)
"""One request at a time; where a request has one image; where it has many."""


def find() -> str:
    """The program's path; raises BenchmarkError where it is missing."""
    program = shutil.which("h2load")
    if program is None:
        raise BenchmarkError(
            "h2load is missing: install it with `apt-get install nghttp2-client`, or choose scenarios that "
            "do without it with --only"
        )
    return program


class H2load:
    """Sends one request to an address, over and over."""

    def __init__(self, address: str, payload: RequestPayload, folder: Path) -> None:
        """Writes the request into the folder; raises BenchmarkError where h2load is missing."""
        self._program = find()
        self._url = f"http://{address}{payload.path}"
        self._frame = Path(tempfile.mkstemp(suffix=".bin", dir=folder)[1])
        self._frame.write_bytes(payload.frame)
        self._response_bytes = FRAME_HEADER_BYTES + payload.response_bytes
        self._folder = folder

    def rate(self, concurrency: Concurrency, requests: int) -> Figures:
        """Requests per second, each with its response."""
        return {"requests_per_s": self._run(concurrency, requests)}

    def timed(self, concurrency: Concurrency, requests: int) -> Figures:
        """Requests per second, and microseconds from request to response."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            log = Path(folder) / "log.tsv"
            rate = self._run(concurrency, requests, f"--log-file={log}")
            took = latencies([float(line.split("\t")[2]) for line in log.read_text().splitlines()])
            return {"requests_per_s": rate, **took}

    def for_about(
        self, seconds: float, concurrency: Concurrency, *, timed: bool = False, server: ServerProcess | None = None
    ) -> Callable[[], Figures]:
        """A measurement about that long at the pace that pilot runs find, which also warm up.

        With ``server``, also the processor time that it spends on a request.
        """
        least = max(LEAST if timed else 1, PILOT * concurrency.in_flight)
        pace = self._run(concurrency, least)
        pace = self._run(concurrency, max(least, round(pace * PILOT_S)))
        requests = max(least, round(pace * seconds))
        take = self.timed if timed else self.rate

        def run() -> Figures:
            if server is None:
                return take(concurrency, requests)
            before = server.cpu_s()
            figures = take(concurrency, requests)
            return {**figures, "server_cpu_us": (server.cpu_s() - before) / requests * 1e6}

        return run

    def _run(self, concurrency: Concurrency, requests: int, *options: str) -> float:
        command = [
            *(self._program, f"-n{requests}", f"-c{concurrency.connections}", f"-m{concurrency.streams}"),
            *("-d", str(self._frame), "-H", "content-type: application/grpc", "-H", "te: trailers", *options),
            self._url,
        ]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(
                f"{requests} requests took more than {LIMIT_S:.0f} s: ask for fewer with --seconds"
            ) from None
        rate = re.search(r"finished in .*?, ([\d.]+) req/s", run.stdout)
        succeeded = re.search(r"(\d+) succeeded", run.stdout)
        data = re.search(r"\((\d+)\) data", run.stdout)
        if run.returncode or not (rate and succeeded and data):
            raise BenchmarkError(f"h2load failed: {(run.stderr or run.stdout).strip().splitlines()[-1:]}")
        whole = int(data[1]) / self._response_bytes
        if int(succeeded[1]) != requests or whole != requests:
            raise BenchmarkError(
                f"of {requests} requests, {succeeded[1]} succeeded and {whole:.1f} brought a response of the "
                "right length: the server refused some under this load"
            )
        return float(rate[1])
