"""The command line, as a process: what it writes, where, and how it ends."""

import json
import math
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.client import Client
from service.client.__main__ import main
from service.client.dataset import TEST_SETS
from service.pb import image_classifier_pb2 as pb
from tests.client.conftest import PICTURES, SHOWN, ScriptedServer, command, echo, environment, run, summary
from tests.servers import ROOT, ServerProcess

MNIST = "mnist-tiny"
CIFAR10 = "cifar10-lenet"


def on_a_terminal(*arguments: str | Path, columns: int = 80, **changes: str) -> str:
    """Run a command with its output on a pseudo-terminal; give what it wrote there."""
    ours, theirs = pty.openpty()
    env = environment(TERM="xterm", COLUMNS=str(columns), NO_COLOR="1", **changes)
    process = subprocess.Popen(command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=env)
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:  # Linux tells the end of a pseudo-terminal so
        pass
    os.close(ours)
    assert process.wait(60) == 0
    return written.decode()


def test_pictures_are_classified_in_a_table(server: ServerProcess) -> None:
    """Three classes each, best first, with per cent; plain text off a terminal."""
    ship, frog = PICTURES / "ship.png", PICTURES / "frog.png"
    done = run("classify", ship, frog, "--model", CIFAR10, CONVSERVE_ADDRESS=server.address)
    heads, *rows = [line.split() for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert done.stderr == ""
    assert heads == ["picture", "label", "probability"]
    assert [row[0] for row in rows] == [str(ship)] * 3 + [str(frog)] * 3
    assert rows[0][1] == SHOWN["ship.png"]
    shares = [float(row[2].removesuffix("%")) for row in rows[:3]]
    assert shares == sorted(shares, reverse=True)


def test_json_keys_are_the_same(server: ServerProcess, tmp_path: Path) -> None:
    """JSON has the same keys for every picture."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    done = run(
        *("classify", PICTURES / "seven.png", broken, "--model", MNIST, "--top-k", "2", "--logits", "--json"),
        *("--address", server.address),
    )
    document = json.loads(done.stdout)
    good, bad = document["pictures"]
    assert document["model"] == MNIST
    assert good.keys() == bad.keys() == {"picture", "version", "classes", "logits", "error"}
    assert good["picture"] == str(PICTURES / "seven.png")
    assert good["classes"][0].keys() == {"label", "index", "probability"}
    assert good["classes"][0]["label"] == SHOWN["seven.png"]
    assert (len(good["classes"]), len(good["logits"]), good["error"]) == (2, 10, None)
    assert (bad["version"], bad["classes"], bad["logits"]) == (None, None, None)
    assert bad["error"]["code"] == "INVALID_ARGUMENT"
    assert done.returncode == 1


def test_broken_pictures_have_their_rows(server: ServerProcess, tmp_path: Path) -> None:
    """A broken picture has its row, and the exit code is 1."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    done = run("classify", PICTURES / "seven.png", broken, "--model", MNIST, "--address", server.address)
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"{broken}  INVALID_ARGUMENT: ")
    assert f"{PICTURES / 'seven.png'}" in done.stdout


def test_a_picture_comes_from_standard_input(server: ServerProcess) -> None:
    done = run(
        *("classify", "-", "--model", CIFAR10, "--top-k", "1", "--logits", "--address", server.address),
        given=(PICTURES / "ship.png").read_bytes(),
    )
    heads, row = [line.split() for line in done.stdout.splitlines()]
    assert heads == ["picture", "label", "probability", "logit"]
    assert row[:2] == ["-", SHOWN["ship.png"]]
    assert done.returncode == 0


def test_standard_input_holds_one_picture(nobody: str) -> None:
    done = run("classify", "-", "-", "--model", MNIST, "--address", nobody)
    assert done.returncode == 1
    assert "holds one image" in done.stderr


def test_odd_names_are_written_whole(server: ServerProcess, tmp_path: Path) -> None:
    """Long names and odd ones are written whole.

    Neither cut at 80 columns nor read as markup; bytes that are no text are shown as escapes.
    """
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    long, markup, odd = (
        folder / "a.png",
        tmp_path / "[red] :smile: b.png",
        os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"),
    )
    for path in (long, markup, odd):
        Image.open(PICTURES / "seven.png").save(path)
    arguments = ("classify", long, markup, odd, "--model", MNIST, "--top-k", "1", "--address", server.address)
    rows = run(*arguments).stdout.splitlines()[1:]
    assert [row.rsplit(maxsplit=2)[0] for row in rows] == [str(long), str(markup), f"{tmp_path}/\\udcff.png"]
    document = json.loads(run(*arguments, "--json").stdout)
    assert [each["picture"] for each in document["pictures"]] == [str(long), str(markup), odd]


def test_a_terminal_gets_bars(server: ServerProcess) -> None:
    """Each picture is named once, and its classes are below each other."""
    written = on_a_terminal(
        *("classify", PICTURES / "seven.png", PICTURES / "ship.png", "--model", MNIST),
        *("--address", server.address),
        columns=200,
    )
    assert written.count("seven.png") == written.count("ship.png") == 1
    assert written.count("%") == 6
    assert "━━" in written
    assert f"{MNIST}, version 1" in written


def test_terminals_without_unicode_get_bars(server: ServerProcess) -> None:
    """A terminal without Unicode gets bars too."""
    written = on_a_terminal(
        *("classify", PICTURES / "seven.png", "--model", MNIST, "--address", server.address),
        PYTHONIOENCODING="ascii",
    )
    assert "####" in written
    assert "\\u" not in written


def test_lists_fit_eighty_columns(server: ServerProcess) -> None:
    """The list fits a terminal of eighty columns. No name is broken over two lines."""
    with Client(server.address) as client:
        names = {model.name for model in client.list_models()}
    written = on_a_terminal("list", "--address", server.address)
    assert names <= {line.split()[0] for line in written.splitlines() if line.strip()}


def test_the_models_are_listed(server: ServerProcess) -> None:
    done = run("list", CONVSERVE_ADDRESS=server.address)
    heads, *rows = done.stdout.splitlines()
    models = json.loads(run("list", "--json", CONVSERVE_ADDRESS=server.address).stdout)["models"]
    tiny = next(model for model in models if model["name"] == MNIST)
    accuracy = f"{tiny['test_accuracy']:.2%}"
    assert heads.split() == [*("model", "version", "data", "set", "accuracy", "images/s", "input", "type", "provider")]
    rate = json.loads((ROOT / "models" / MNIST / "1" / "report.json").read_bytes())["cost"]["images_per_s"]["64"]
    assert tiny["images_per_s"]["in runs of 64"] == rate
    assert [MNIST, "1", "mnist", accuracy, f"{rate:,.0f}", "28x28x1", "fp32", "cpu"] in [row.split() for row in rows]
    assert tiny["input"] == {"height": 28, "width": 28, "channels": 1}
    assert tiny["labels"] == list("0123456789")
    assert done.returncode == 0


def test_every_kind_has_its_table(odd: ServerProcess) -> None:
    """Below the classifiers, models of tensors have a row for each tensor, and refused ones their reason."""
    done = run("list", "--address", odd.address)
    classifiers, tensors, refused = done.stdout.split("\n\n")
    assert classifiers.splitlines()[0].split()[0] == "model"
    heads, *rows = [line.split(maxsplit=5) for line in tensors.splitlines()]
    assert " ".join(" ".join(heads).split()) == "tensor model version side name datatype shape"
    assert ["sum", "1", "input", "left", "FP32", "[-1, 16]"] in rows
    assert ["sum", "1", "output", "difference", "FP32", "[-1, 16]"] in rows
    heads, *rows = [line.split(maxsplit=2) for line in refused.splitlines()]
    assert heads[:2] == ["not", "served"]
    assert next(row for row in rows if row[0] == "broken")[1] == "1"
    document = json.loads(run("list", "--json", "--address", odd.address).stdout)
    assert document.keys() == {"models", "tensor_models", "not_served"}
    total = next(model for model in document["tensor_models"] if model["name"] == "sum")
    assert total["inputs"][1] == {"name": "right", "datatype": "FP32", "shape": [-1, 16]}
    broken = next(each for each in document["not_served"] if each["name"] == "broken")
    assert broken.keys() == {"name", "version", "state", "reason"}


def saved(path: Path, array: Any) -> Path:
    """A .npy file."""
    np.save(path, array)
    return path


def test_tensors_are_read_and_written(odd: ServerProcess, tmp_path: Path) -> None:
    """Inputs come from .npy files, an output goes to one where a file is named, and the table says so."""
    left = np.array([[1.25] * 16, [np.nan] * 16], np.float32)
    inputs = [f"left={saved(tmp_path / 'left.npy', left)}", f"right={saved(tmp_path / 'r=1.npy', left)}"]
    line = ("infer", "sum", "--input", inputs[0], "--input", inputs[1], "--address", odd.address)
    out = tmp_path / "total"
    done = run(*line, "--output", f"total={out}", "--output", "difference")
    heads, *rows = [row.split(maxsplit=4) for row in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert heads == ["output", "datatype", "shape", "elements"]
    assert rows == [
        ["total", "float32", "[2,", "16]", str(out)],
        ["difference", "float32", "[2,", "16]", "0 0 0 0 0 0 …"],
    ]
    assert np.array_equal(np.load(out), left + left, equal_nan=True)
    document = json.loads(run(*line, "--json", "--version", "1").stdout)
    assert (document["model"], document["version"], list(document["outputs"])) == ("sum", "1", ["total", "difference"])
    total = document["outputs"]["total"]
    assert (total["datatype"], total["shape"], total["file"]) == ("float32", [2, 16], None)
    assert total["data"] == [[2.5] * 16, ["NaN"] * 16]


def test_text_is_read_and_written(odd: ServerProcess, tmp_path: Path) -> None:
    texts = np.array([["a", "béc"]])
    given, out = saved(tmp_path / "texts.npy", texts), tmp_path / "out.npy"
    done = run("infer", "identity-bytes", "--input", f"x={given}", "--output", f"y={out}", "--address", odd.address)
    assert done.returncode == 0, done.stderr
    assert np.load(out).tolist() == texts.tolist()


def test_unusable_tensor_files_are_named(nobody: str, tmp_path: Path) -> None:
    """A file that is missing, no array, an archive, or an input given twice is one sentence, and nothing is sent."""
    text, archive = tmp_path / "text.npy", tmp_path / "many.npz"
    text.write_text("no array")
    np.savez(archive, x=np.zeros(1))
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}], object), allow_pickle=True)
    for given, sentence in (
        ((f"x={tmp_path}/gone.npy",), "gone.npy' cannot be read: No such file"),
        ((f"x={text}",), "text.npy' is no .npy file of numbers or text"),
        ((f"x={objects}",), "objects.npy' is no .npy file of numbers or text"),
        ((f"x={archive}",), "many.npz' is an .npz archive"),
        ((f"x={archive}", f"x={archive}"), "input 'x' is given twice"),
    ):
        done = run("infer", "any", *(part for each in given for part in ("--input", each)), "--address", nobody)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1


def test_unwritable_outputs_are_told(odd: ServerProcess, tmp_path: Path) -> None:
    given = saved(tmp_path / "x.npy", np.zeros((1, 2), np.float32))
    line = ("infer", "identity-fp32", "--input", f"x={given}", "--output", f"y={tmp_path}", "--address", odd.address)
    done = run(*line)
    assert done.returncode == 1
    assert done.stderr == f"python -m service.client: '{tmp_path}' cannot be written: Is a directory\n"


def test_refused_models_are_one_sentence(odd: ServerProcess) -> None:
    done = run("classify", PICTURES / "seven.png", "--model", "broken", "--address", odd.address)
    assert done.returncode == 1
    assert done.stderr.startswith(f"python -m service.client: {odd.address} does not serve model 'broken' version 1: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_test_sets_score_as_promised(server: ServerProcess, data_dir: Path, dataset: str) -> None:
    """A whole test set gives the accuracy that the file promises, and its Wilson interval."""
    models = json.loads(run("list", "--json", "--address", server.address).stdout)["models"]
    promised = {each["name"]: each["test_accuracy"] for each in models if each["dataset"] == dataset}
    tiny = min(promised, key=lambda name: next(each["parameters"] for each in models if each["name"] == name))
    arguments = ("dataset", dataset, "--data-dir", data_dir, "--json", "--address", server.address)
    whole = json.loads(run(*arguments, "--model", tiny).stdout)
    part = json.loads(run(*arguments, "--model", tiny, "--limit", "100", "--batch", "32", "--concurrency", "3").stdout)
    # On other hardware one picture of ten thousand may fall on the other side of a tie.
    assert whole["accuracy"] == pytest.approx(promised[tiny], abs=2e-4)
    assert whole["total"] == sum(each["total"] for each in whole["classes"]) == 10_000
    assert whole["correct"] == sum(each["correct"] for each in whole["classes"])
    assert 0 < whole["latency_ms"]["p50"] <= whole["latency_ms"]["p99"]
    assert whole["images_per_second"] == pytest.approx(10_000 / whole["seconds"])
    for end in whole["accuracy_interval"]:  # where the share lies 1.96 of the end's standard deviations away
        assert abs(end - whole["accuracy"]) == pytest.approx(1.96 * math.sqrt(end * (1 - end) / 10_000), rel=1e-4)
    assert (part["total"], part["batch"], part["concurrency"]) == (100, 32, 3)


@pytest.mark.parametrize(
    ("names", "chosen"), [(("mnist-a", "mnist"), "mnist"), (("only", "cifar10-b"), "only")], ids=["namesake", "only"]
)
def test_dataset_picks_its_model(scripted: ScriptedServer, data_dir: Path, names: tuple[str, ...], chosen: str) -> None:
    """The model named as the data set is asked, or the only one trained on it, however accurate others are."""
    scripted.models = [summary(name) for name in names]
    line = ("dataset", "mnist", "--limit", "5", "--json", "--data-dir", data_dir, "--address", scripted.address)
    assert json.loads(run(*line).stdout)["model"] == chosen


def test_dataset_with_many_models_needs_name(scripted: ScriptedServer, data_dir: Path) -> None:
    """Without a namesake the models for the data set are listed, so that the user chooses, not the test accuracy."""
    scripted.models = [summary("b"), summary("a"), summary("cifar10-c")]
    done = run("dataset", "mnist", "--data-dir", data_dir, "--address", scripted.address)
    assert done.returncode == 1
    assert done.stderr == (
        f"python -m service.client: {scripted.address} has 2 models for mnist, none of that name: "
        "name one with --model, of a, b\n"
    )


def test_test_sets_are_reported(server: ServerProcess, data_dir: Path) -> None:
    """A test set is reported for people.

    A row for each class, then the sums; the progress bar is for terminals only.
    """
    done = run(
        *("dataset", "cifar10", "--limit", "500", "--model", CIFAR10, "--data-dir", data_dir),
        *("--address", server.address),
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert done.stderr == ""
    assert lines[0].split() == ["class", "accuracy", "correct", "of"]
    assert sum(int(line.split()[3]) for line in lines[1:11]) == 500
    correct = sum(int(line.split()[2]) for line in lines[1:11])
    assert any(line.startswith(f"accuracy    {correct / 500:.2%} ({correct} of 500; 95% interval ") for line in lines)
    assert lines[-1].endswith("(64 images a call, 4 calls at once)")


def test_folder_scores_as_its_pixels(server: ServerProcess, data_dir: Path, tmp_path: Path) -> None:
    """A folder of image files for each class is measured as the same pixels are; one of another class is refused."""
    dataset = TEST_SETS["cifar10"].read(data_dir).first(40)
    listed = json.loads(run("list", "--json", "--address", server.address).stdout)["models"]
    labels = next(each["labels"] for each in listed if each["name"] == CIFAR10)
    for place, (pixels, number) in enumerate(zip(dataset.pictures, dataset.labels, strict=True)):
        path = tmp_path / "test" / labels[number] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels)).save(path)
    told = ("--model", CIFAR10, "--json", "--address", server.address)
    as_files = json.loads(run("dataset", tmp_path, *told).stdout)
    as_pixels = json.loads(run("dataset", "cifar10", "--data-dir", data_dir, "--limit", "40", *told).stdout)
    assert (as_files["correct"], as_files["total"]) == (as_pixels["correct"], 40)
    assert as_files["classes"] == as_pixels["classes"]
    (tmp_path / "test" / "emu").mkdir()
    refused = run("dataset", tmp_path, *told)
    assert refused.returncode == 1
    assert "emu is a class folder, and the model has no class 'emu': name another folder" in refused.stderr


def test_a_terminal_gets_a_progress_bar(server: ServerProcess, data_dir: Path) -> None:
    """On a terminal, a measurement shows how far it is."""
    arguments = ("dataset", "mnist", "--model", MNIST, "--limit", "300", "--data-dir", data_dir)
    assert "300/300" in on_a_terminal(*arguments, "--address", server.address)


def test_models_for_other_data(server: ServerProcess, data_dir: Path) -> None:
    """A model for other data is not measured."""
    done = run("dataset", "mnist", "--model", CIFAR10, "--data-dir", data_dir, "--address", server.address)
    assert done.returncode == 1
    assert f"model '{CIFAR10}' tells 10 classes of 'cifar10' apart" in done.stderr


def test_missing_models_are_named(server: ServerProcess, data_dir: Path) -> None:
    """A model that is not there is named with those that are."""
    done = run("dataset", "mnist", "--model", "nonesuch", "--data-dir", data_dir, "--address", server.address)
    assert done.returncode == 1
    assert "has no model 'nonesuch'" in done.stderr
    assert MNIST in done.stderr


def test_no_model_for_the_data_set(scripted: ScriptedServer, data_dir: Path) -> None:
    done = run("dataset", "mnist", "--data-dir", data_dir, "--address", scripted.address)
    assert done.returncode == 1
    assert done.stderr == f"python -m service.client: {scripted.address} has no model for mnist; its models are: none\n"


def test_a_refused_picture_ends_the_measurement(scripted: ScriptedServer, data_dir: Path) -> None:
    scripted.models = [summary("any")]
    scripted.classify = lambda request, _context: pb.ClassifyResponse(
        results=[pb.ImageResult(error=pb.ImageError(code=3, message="too grey"))] * len(request.images)
    )
    done = run("dataset", "mnist", "--limit", "5", "--data-dir", data_dir, "--address", scripted.address)
    assert done.returncode == 1
    assert done.stderr == "python -m service.client: picture 0 of mnist is refused: INVALID_ARGUMENT: too grey\n"


def test_missing_data_comes_with_its_remedy(scripted: ScriptedServer, tmp_path: Path) -> None:
    """Without a download, a missing test set is named with what fetches it."""
    scripted.models = [summary("any")]
    line = ("dataset", "mnist", "--no-download", "--address", scripted.address)
    done = run(*line, CONVSERVE_DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"python -m service.client: {tmp_path}/MNIST/raw/t10k-images-idx3-ubyte cannot be read"
    )
    assert f"`convserve dataset mnist --data-dir {tmp_path}` fetches it" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("list",), ("classify", PICTURES / "seven.png", "--model", MNIST)], ids=["list", "classify"]
)
def test_absent_servers_are_one_sentence(nobody: str, arguments: tuple[str | Path, ...]) -> None:
    """A server that is away is one sentence."""
    done = run(*arguments, "--address", nobody)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"python -m service.client: no server answers at {nobody} (")
    assert done.stderr.count("\n") == 1


def test_missing_files_are_named_first(nobody: str, tmp_path: Path) -> None:
    """Missing files are all named before anything is sent. The server is away, and it does not matter."""
    done = run("classify", tmp_path / "a.png", tmp_path, tmp_path / "b.png", "--model", MNIST, "--address", nobody)
    first, second, third = done.stderr.splitlines()
    assert done.returncode == 1
    assert first == f"python -m service.client: '{tmp_path}/a.png' cannot be read: No such file or directory"
    assert f"'{tmp_path}' is a folder" in second
    assert "b.png' cannot be read" in third


def test_an_unknown_model_is_one_sentence(server: ServerProcess) -> None:
    done = run("classify", PICTURES / "seven.png", "--model", "nonesuch", "--address", server.address)
    assert done.returncode == 1
    assert "nonesuch" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("classify", "a.png"), "the following arguments are required: --model"),
        (("classify", "a.png", "--model", "m", "--top-k", "0"), "expected a whole number above 0, not '0'"),
        (("dataset", "mnist", "--batch", "2000"), "a call takes at most 1024 images, not 2000"),
        (("dataset", "imagenet"), "expected cifar10, mnist or a folder of images, not 'imagenet'"),
        (
            ("list", "--address", "localhost"),
            "expected an address such as 127.0.0.1:8001, host and port, not 'localhost'",
        ),
        (("infer", "m", "--input", "x"), "expected NAME=FILE, not 'x'"),
        (("dataset", "mnist", "--data-mirror", "file:///etc"), "expected the URL of a folder, https://…, not 'file:"),
        (("classify", "a.png", "--model", "\udcff"), r"expected text, not '\udcff'"),
        (("--timeout-s", "nan", "list"), "expected a number above 0, not 'nan'"),
        (("list", "--timeout-s", "inf"), "expected a number above 0, not 'inf'"),
    ],
    ids=[
        "command",
        "model",
        "top-k",
        "batch",
        "data set",
        "address",
        "no file",
        "no web",
        "no text",
        "no number",
        "infinite",
    ],
)
def test_wrong_arguments_are_explained(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument ends the program at once with exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", ["classify", "list", "infer", "dataset"])
def test_every_command_has_help(name: str) -> None:
    done = run(name, "--help", CONVSERVE_ADDRESS="[fe80::1%eth0]:7")
    assert done.returncode == 0
    assert "--address HOST:PORT" in done.stdout
    assert "[fe80::1%eth0]:7" in done.stdout


def test_addresses_before_and_after_the_command(scripted: ScriptedServer, nobody: str) -> None:
    """The address is taken before the command and after it.

    The later one counts, and both count for more than the environment.
    """
    assert run("--address", scripted.address, "list", CONVSERVE_ADDRESS=nobody).returncode == 0
    assert run("--address", nobody, "list", "--address", scripted.address).returncode == 0
    assert run("--address", scripted.address, "list", "--address", nobody).returncode == 1


def test_the_time_limit_holds(scripted: ScriptedServer) -> None:
    released = threading.Event()

    def wait(request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        released.wait(60)
        return echo(request, context)

    scripted.classify = wait
    done = run("classify", "-", "--model", "any", "--timeout-s", "0.5", "--address", scripted.address, given=b"1")
    released.set()
    assert done.returncode == 1
    assert "gave no answer within 0.5 s" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("classify", str(ROOT / "LICENSE"), "--model", "any"), ("dataset", "mnist")],
    ids=["classify", "dataset"],
)
def test_ctrl_c_ends_it_at_once(scripted: ScriptedServer, data_dir: Path, arguments: tuple[str, ...]) -> None:
    """In the middle of a call that does not end, with one word and the code of an interrupted program."""
    released = threading.Event()

    def wait(request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        released.wait(60)
        return echo(request, context)

    scripted.classify = wait
    scripted.models = [summary("any")]
    env = environment(CONVSERVE_DATA_DIR=str(data_dir), CONVSERVE_ADDRESS=scripted.address)
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=env
    ) as process:
        assert scripted.arrived.wait(60)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    released.set()
    assert (process.returncode, output, errors) == (130, b"", b"python -m service.client: interrupted\n")


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_broken_pipes_end_it(scripted: ScriptedServer, form: tuple[str, ...], unbuffered: str) -> None:
    """A broken pipe ends it with a sentence, whether it is met by a line or by the last of a buffer."""
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        command("list", "--address", scripted.address, *form),
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment() | {"PYTHONUNBUFFERED": unbuffered},
    ) as process:
        os.close(writing)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 141
    assert errors == b"python -m service.client: the reader of the output went away before its end\n"


def test_client_imports_no_runtime() -> None:
    """Neither torch nor ONNX Runtime is needed, nor messages that tritonclient registers. Nothing imports them."""
    program = (
        "import sys, service.client, service.client.__main__\n"
        "absent = ('torch', 'onnxruntime', 'onnx', 'training', 'service.pb.open_inference_pb2')\n"
        "print([name for name in absent if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "[]\n"
