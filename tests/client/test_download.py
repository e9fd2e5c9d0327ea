"""A missing test set is fetched from a web server that has the real files, packed as they are published."""

import gzip
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from service.client.dataset import TEST_SETS
from tests.client.conftest import ScriptedServer, run, summary
from tests.client.test_command_line import on_a_terminal
from tests.servers import ServerProcess

IMAGES, LABELS = (Path(file.path) for file in TEST_SETS["mnist"].files)
BATCH = Path(TEST_SETS["cifar10"].files[0].path)


class Mirror(ThreadingHTTPServer):
    """A web server of a folder, which records what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.folder = folder
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    """Tells its server of each request."""

    def log_request(self, *_: object) -> None:
        """Record the path."""
        assert isinstance(self.server, Mirror)
        self.server.asked.append(self.path)


@pytest.fixture(scope="session")
def archives(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real test sets as their authors pack them: gzip, and a tar file with much before and after."""
    folder = tmp_path_factory.mktemp("archives")
    for path in (IMAGES, LABELS):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress((data_dir / path).read_bytes(), 1))
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as archive:
        for name in ("batches.meta", "data_batch_4", "test_batch"):
            archive.add(data_dir / BATCH.parent / name, BATCH.parent / name)
        later = tarfile.TarInfo("later")
        later.size = 8 * 2**20
        archive.addfile(later, io.BytesIO(np.random.default_rng(0).bytes(later.size)))
    return folder


@pytest.fixture
def mirror(archives: Path) -> Iterator[Mirror]:
    """A web server of the archives."""
    with Mirror(archives) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("name", "model"), [("mnist", "mnist-tiny"), ("cifar10", "cifar10-lenet")])
def test_newcomers_get_a_figure(
    server: ServerProcess, mirror: Mirror, data_dir: Path, tmp_path: Path, name: str, model: str
) -> None:
    """Without any data, the command fetches the test set, measures, and finds the files there the next time."""
    line = ("dataset", name, "--model", model, "--limit", "200", "--json", "--address", server.address)
    folder = str(tmp_path / "new" / "data")
    first = run(*line, CONVSERVE_DATA_DIR=folder, CONVSERVE_DATA_MIRROR=mirror.url)
    assert first.returncode == 0, first.stderr
    asked = len(mirror.asked)
    second = run(*line, CONVSERVE_DATA_DIR=folder, CONVSERVE_DATA_MIRROR=mirror.url)
    assert asked == len(mirror.asked) == len(TEST_SETS[name].files)
    assert second.stderr == ""
    assert first.stderr.count("is missing and is fetched") == asked
    assert json.loads(first.stdout)["accuracy"] == json.loads(second.stdout)["accuracy"] > 0.5
    fetched, real = TEST_SETS[name].read(tmp_path / "new" / "data"), TEST_SETS[name].read(data_dir)
    assert np.array_equal(fetched.pictures, real.pictures)
    assert np.array_equal(fetched.labels, real.labels)
    assert len([path for path in (tmp_path / "new").rglob("*") if path.is_file()]) == asked


@pytest.fixture
def spoilt(tmp_path: Path, archives: Path) -> Path:
    """A folder of archives to be spoilt."""
    folder = tmp_path / "spoilt"
    folder.mkdir()
    for path in archives.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("fault", ["other", "longer", "cut", "no gzip", "gone", "no tar", "no member"])
def test_spoilt_archives_are_refused(scripted: ScriptedServer, spoilt: Path, tmp_path: Path, fault: str) -> None:
    """What is not the published file leaves nothing behind, and the sentence names the address and the remedy."""
    name = "cifar10" if "tar" in fault or "member" in fault else "mnist"
    archive = spoilt / TEST_SETS[name].files[0].archive
    content = archive.read_bytes()
    if fault == "other":
        archive.write_bytes(gzip.compress(bytes(7_840_016), 1))
    elif fault == "longer":
        archive.write_bytes(gzip.compress(gzip.decompress(content) + bytes(1), 1))
    elif fault == "cut":
        archive.write_bytes(content[:5000])
    elif fault == "gone":
        archive.unlink()
    elif fault == "no member":
        archive.write_bytes(gzip.compress(bytes(10240)))
    else:
        archive.write_bytes(b"<html>")
    data = tmp_path / "data"
    scripted.models = [summary(name)]
    with Mirror(spoilt) as server:
        threading.Thread(target=server.serve_forever).start()
        line = ("dataset", name, "--data-dir", data, "--data-mirror", server.url, "--address", scripted.address)
        done = run(*line)
        server.shutdown()
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert f"is missing, and cannot be fetched ({server.url}/{archive.name}: " in last
    assert "name the folder that has it by --data-dir" in last
    assert [path for path in data.rglob("*") if path.is_file()] == []


def test_unwritable_folders_are_told(scripted: ScriptedServer, mirror: Mirror, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file where the folder should be")
    scripted.models = [summary("mnist")]
    line = ("dataset", "mnist", "--data-dir", taken, "--data-mirror", mirror.url, "--address", scripted.address)
    done = run(*line)
    assert done.returncode == 1
    assert "cannot be written: Not a directory: name another --data-dir" in done.stderr
    assert mirror.asked == []


def test_absent_servers_fetch_nothing(nobody: str, mirror: Mirror, tmp_path: Path) -> None:
    """Nothing is fetched before the server has told of a model to measure."""
    done = run("dataset", "mnist", "--data-dir", tmp_path, "--data-mirror", mirror.url, "--address", nobody)
    assert "no server answers" in done.stderr
    assert mirror.asked == []


def test_terminals_show_the_download(server: ServerProcess, mirror: Mirror, tmp_path: Path) -> None:
    """On a terminal a bar tells how much of an archive has come."""
    line = ("dataset", "mnist", "--model", "mnist-tiny", "--limit", "50", "--data-dir", tmp_path)
    written = on_a_terminal(*line, "--data-mirror", mirror.url, "--address", server.address)
    size = len((mirror.folder / f"{IMAGES.name}.gz").read_bytes())
    assert f"{size / 1e6:.1f}/{size / 1e6:.1f} MB" in written
