"""h2spec, another maker's cases of RFC 9113 and 7541, against the native transport, where its program is there.

`make clients` runs it. https://github.com/summerwind/h2spec has programs; on Debian it is built without modules of
others, by golang-go, golang-golang-x-net-dev, golang-github-spf13-cobra-dev and golang-github-fatih-color-dev.
"""

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.servers import ServerProcess

H2SPEC = os.environ.get("CONVSERVE_H2SPEC") or shutil.which("h2spec")
TIMEOUT_S = 120
NOT_GRPC = Counter(
    {
        "generic/2": 2,
        "http2/5.1.2": 1,
        "http2/6.9": 1,
        "http2/6.9.1": 1,
        "http2/8.1": 1,
        "http2/8.1.2.1": 1,
        "http2/8.1.2.2": 1,
        "http2/8.1.2.3": 1,
        "http2/8.1.2.6": 2,
    }
)
"""Cases by section that cannot pass as h2spec sends them: GET, without a content type. A gRPC server answers that at
once by a status of 4xx, as section 8.1.1 allows, and so never comes to what they break. With POST and
application/grpc the two of generic/2 are left, which want DATA, and that of 5.1.2, which wants answers to wait.
"""


@pytest.mark.skipif(H2SPEC is None, reason="needs h2spec")
def test_h2spec(models_dir: Path, tmp_path: Path) -> None:
    """All of its cases pass, but for those that no gRPC server can pass."""
    report = tmp_path / "report.xml"
    with ServerProcess(models_dir, "--models", "mnist-tiny") as server:
        host, _, port = server.address.rpartition(":")
        options = ("--strict", "--path", "/inference.GRPCInferenceService/ServerLive", "--junit-report", str(report))
        subprocess.run([str(H2SPEC), "--host", host, "--port", port, *options], timeout=TIMEOUT_S, check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 - written by the program that was started
    failed = Counter(
        case.get("package") for case in cases if case.find("error") is not None or case.find("failure") is not None
    )
    assert len(cases) > 140
    assert failed == NOT_GRPC
