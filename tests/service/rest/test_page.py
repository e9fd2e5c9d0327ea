"""The page at ``/`` in a real browser, in front of a real server: what is drawn, dropped and pasted is classified."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Route, expect

from tests.servers import ROOT, ServerProcess
from tests.service.rest import browser as browsers
from tests.service.rest.browser import PHONE, SEVEN, SMALL, Desk, desk

pytestmark = pytest.mark.skipif(browsers.CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

PICTURES = ROOT / "tests" / "pictures"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests; each has a tab of its own."""
    with browsers.started() as browser:
        yield browser


@pytest.fixture(scope="module")
def url(models_dir: Path) -> Iterator[str]:
    """Address of a server of two models for digits and one for pictures."""
    with ServerProcess(models_dir, "--models", "mnist,mnist-tiny,cifar10-cnn", "--http-port", "0") as server:
        yield f"{server.url}/"


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Desk]:
    """The page on a desktop's screen."""
    with desk(browser, url) as opened:
        yield opened.open()


def test_drawn_seven_is_seven(page: Desk) -> None:
    """A seven drawn with the mouse is told while it is drawn, with bars, the model's 28 x 28 pixels and the latency."""
    page.choose("mnist")
    page.draw()
    page.expect_answer("7")
    expect(page.page.get_by_role("list", name="Most probable classes").get_by_role("listitem")).to_have_count(5)
    expect(page.page.get_by_role("img", name=re.compile("pixels that the model saw, 28 . 28, grey"))).to_be_visible()
    white = "canvas => canvas.getContext('2d').getImageData(0, 0, 28, 28).data.filter(value => value > 200).length"
    assert page.page.locator("#saw").evaluate(white) > 28 * 28 + 3 * 30  # opaque everywhere, and white where the ink is
    expect(page.page.locator("#latency")).to_contain_text(" ms")
    expect(page.page.get_by_role("status").filter(has_text="7, ")).to_be_attached()


@pytest.mark.parametrize(("by", "name"), [("drop", "ship.png"), ("paste", "image.png")], ids=["dropped", "pasted"])
def test_given_ship_is_ship(page: Desk, by: str, name: str) -> None:
    """A picture that is dropped or pasted is shown, sent as it is, and classified."""
    page.choose("cifar10-cnn")
    expect(page.page.get_by_role("radio", name="Picture")).to_be_checked()
    getattr(page, by)(PICTURES / "ship.png")
    page.expect_answer("ship")
    expect(page.page.get_by_alt_text(f"Your picture, {name}")).to_be_visible()
    expect(page.page.get_by_role("img", name=re.compile("pixels that the model saw, 32 . 32, colour"))).to_be_visible()


def test_chosen_picture_can_go(page: Desk) -> None:
    """A picture comes through the file dialog, and goes; what was drawn before is still there."""
    page.choose("mnist")
    page.draw()
    page.expect_answer("7")
    page.page.get_by_role("radio", name="Picture").check()
    page.page.get_by_label("Choose a picture").set_input_files(PICTURES / "seven.png")
    page.expect_answer("7")
    page.page.get_by_role("button", name="Remove the picture").click()
    expect(page.result).to_have_attribute("data-state", "empty")
    page.page.get_by_role("radio", name="Draw").check()
    page.expect_answer("7")


def test_other_model_answers_anew(page: Desk) -> None:
    """Another model is asked about the same drawing at once; one for pictures keeps the drawing for later."""
    page.choose("mnist")
    page.draw()
    page.expect_answer("7")
    with page.page.expect_response(lambda response: "model=mnist-tiny&" in response.url):
        page.choose("mnist-tiny")
    page.expect_answer("7")
    page.choose("cifar10-cnn")
    expect(page.result).to_have_attribute("data-state", "empty")
    page.choose("mnist")
    page.expect_answer("7")


def test_strokes_are_taken_back(page: Desk) -> None:
    """Undo takes the last stroke back, and Clear all; what was cleared can be had again."""
    undo, clear = (page.page.get_by_role("button", name=name) for name in ("Undo", "Clear"))
    expect(undo).to_be_disabled()
    page.draw()
    page.draw(((0.1, 0.1), (0.9, 0.9)))
    undo.click()
    page.expect_answer("7")
    clear.click()
    expect(clear).to_be_disabled()
    expect(page.result).to_have_attribute("data-state", "empty")
    page.page.keyboard.press("Control+z")
    page.expect_answer("7")


def test_late_answer_is_dropped(page: Desk) -> None:
    """An answer that comes after the drawing was cleared is not shown; the next question waits for it."""
    page.page.evaluate(
        """() => {
            const label = document.getElementById("best-label");
            window.shown = [];
            new MutationObserver(() => window.shown.push(label.textContent)).observe(label, { childList: true });
        }"""
    )
    questions, held = "**/v1/classify?*", list[Route]()
    page.page.route(questions, lambda route: held.append(route))
    with page.page.expect_request(questions):
        page.draw()
    page.page.get_by_role("button", name="Clear").click()
    page.page.keyboard.press("Control+z")
    page.page.get_by_role("button", name="Clear").click()
    with page.page.expect_response(questions):
        held[0].continue_()
    with page.page.expect_request(questions):
        page.page.keyboard.press("Control+z")
    assert page.page.evaluate("window.shown") == []
    held[1].continue_()
    page.expect_answer("7")


def test_keys_alone_are_enough(page: Desk) -> None:
    """Model, drawing, undo and the model's own page are reached and used without a mouse."""
    keyboard, pad = page.page.keyboard, page.page.get_by_label("Drawing pad")
    page.page.get_by_label("Model", exact=True).focus()
    keyboard.type("mnist")
    for _ in range(9):
        if pad.evaluate("pad => pad === document.activeElement"):
            break
        keyboard.press("Tab")
    expect(pad).to_be_focused()
    for key, times in (("ArrowUp", 6), (" ", 1), ("ArrowDown", 12), (" ", 1)):
        for _ in range(times):
            keyboard.press(key)
    page.expect_answer("1")
    keyboard.press("Delete")
    expect(page.result).to_have_attribute("data-state", "empty")
    keyboard.press("Control+z")
    page.expect_answer("1")
    link = page.page.get_by_role("link", name="About this model")
    link.focus()
    keyboard.press("Enter")
    expect(page.page.get_by_role("heading", level=1)).to_contain_text("mnist")
    page.page.get_by_role("link", name="← Classify").focus()
    keyboard.press("Enter")
    expect(link).to_be_focused()
    page.expect_answer("1")


def test_unusable_input_is_explained(page: Desk, tmp_path: Path) -> None:
    """A file that is no image gets the server's sentence; one that is too large is not even sent."""
    note = tmp_path / "note.txt"
    note.write_text("This is no picture.")
    page.drop(note)
    expect(page.result.get_by_role("alert")).to_contain_text("PNG, JPEG, WEBP")
    page.forgive(r"status of 400")
    page.page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(65 * 2 ** 20)], "huge.bmp"));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }"""
    )
    expect(page.result.get_by_role("alert")).to_have_text(
        "huge.bmp has 65 MiB, and this server takes up to 64 MiB: save it smaller, "
        "or start the server with a larger --max-message-mib."
    )


def test_model_tells_what_was_measured(page: Desk) -> None:
    """A model's own page has its accuracy with interval, curves, calibration, confusion, mistakes and cost."""
    page.open("#/models/mnist/1")
    about = page.page.locator("#about")
    expect(about).to_contain_text("99.57 % to 99.79 % at 95 %: 9,970 of 10,000 images of MNIST")
    for chart in ("Share of wrong predictions", "Loss against epochs", "Accuracy against the probability"):
        expect(about.get_by_role("img", name=chart)).to_be_visible()
    expect(about.get_by_role("row", name="0 980")).to_contain_text("100.00 %")
    expect(about).to_contain_text("22.6 M")
    expect(about.get_by_alt_text("Test images that the model got wrong")).to_have_js_property("naturalWidth", 960)
    page.page.goto(page.url + "#/models/nothing/1")
    expect(about.get_by_role("heading", level=1)).to_contain_text("nothing")
    expect(about).to_contain_text("does not serve this version")
    page.forgive(r"status of 404")


def test_phone_shows_drawing_and_answer(browser: Browser, url: str) -> None:
    """On a phone a finger draws, the answer stands on the same screen, and nothing is wider than it."""
    with desk(browser, url, viewport=PHONE, has_touch=True, is_mobile=True) as phone:
        phone.open()
        places = [{"x": x, "y": y} for x, y in phone.on_pad(SEVEN)]
        touch = phone.page.context.new_cdp_session(phone.page)
        for kind, points in (("touchStart", places[:1]), *(("touchMove", [place]) for place in places[1:])):
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        phone.expect_answer("7")
        expect(phone.page.locator("#bars .name").first).to_be_in_viewport()
        width = "document.documentElement.scrollWidth"
        assert phone.page.evaluate(width) == PHONE["width"]
        phone.page.get_by_role("radio", name="Picture").check()
        expect(phone.page.get_by_text("Take a photo", exact=True)).to_be_visible()
        phone.page.get_by_role("link", name="About this model").click()
        expect(phone.page.get_by_role("img", name="Loss against epochs")).to_be_visible()
        assert phone.page.evaluate(width) == PHONE["width"]
        phone.page.set_viewport_size(SMALL)
        assert phone.page.evaluate(width) == SMALL["width"]


def test_files_carry_policy_and_tag(url: str) -> None:
    """Each file has its type, a strict policy and a tag, and is not sent again to who has it."""
    for path, kind in (
        ("", "text/html"),
        ("page/app.js", "text/javascript"),
        ("page/models/mnist/1/report.json", "application/json"),
    ):
        first = httpx.get(url + path)
        assert first.headers["content-type"].startswith(kind)
        assert first.headers["x-content-type-options"] == "nosniff"
        assert first.headers["content-security-policy"].split("; ")[:3] == [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
        ]
        again = httpx.get(url + path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "page/models/mnist/1/model.onnx",
        "page/models/mnist/2/report.json",
        "page/models/cifar10/1/report.json",
        "page/models/..%2Fmnist/1/report.json",
        "page/models/mnist/..%2F1/report.json",
        "page/page_routes.py",
    ],
    ids=["model file", "no version", "not served", "name upwards", "version upwards", "source"],
)
def test_other_files_are_kept(url: str, path: str) -> None:
    """Of folders nothing but report and figure of served models can be had; what is refused gets a sentence."""
    refused = httpx.get(url + path)
    assert refused.status_code in (400, 404, 503)
    assert refused.json()["error"]


def test_foreign_script_is_refused(page: Desk) -> None:
    """The Content-Security-Policy keeps script that was put into the page from running."""
    page.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'taken over'";
            document.head.append(script);
        }"""
    )
    expect(page.page).to_have_title("convserve")
    page.forgive("Content Security Policy")
