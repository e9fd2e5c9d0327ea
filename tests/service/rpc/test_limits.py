"""What the system does not give is waited for, and those who are served meanwhile do not notice."""

import resource
import socket
from pathlib import Path

from service.pb import open_inference_pb2 as pb
from tests import onnx_models
from tests.servers import ServerProcess
from tests.wire import ask

CONNECTIONS = 30


def test_server_survives_without_descriptors(tmp_path: Path) -> None:
    """Without file descriptors those connected are served, and later those that wait."""
    onnx_models.two_inputs(tmp_path)
    with ServerProcess(tmp_path) as server, server.channel() as channel:
        assert ask(server, "ServerLive", pb.ServerLiveRequest(), channel).live
        open_now = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (open_now + 5, open_now + 5))
        host, _, port = server.address.rpartition(":")
        waiting = [socket.create_connection((host, int(port))) for _ in range(CONNECTIONS)]
        try:
            for _ in range(20):
                assert ask(server, "ServerLive", pb.ServerLiveRequest(), channel).live
        finally:
            for connection in waiting:
                connection.close()
        with server.channel([("grpc.use_local_subchannel_pool", 1)]) as fresh:
            assert ask(server, "ServerLive", pb.ServerLiveRequest(), fresh).live
        assert server.terminate() == 0
    reasons = [event["reason"] for event in server.events if event["event"] == "cannot accept a connection"]
    assert set(reasons) == {"Too many open files"}
