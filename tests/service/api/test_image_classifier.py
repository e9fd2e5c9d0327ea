"""convserve.v1.ImageClassifier over both transports."""

import io

import grpc
import numpy as np
import pytest
from PIL import Image

from service.pb import image_classifier_pb2 as ic
from tests.onnx_models import LABELS
from tests.servers import ServerProcess
from tests.wire import TIMEOUT_S, Array, classify, infer, infer_request, refusal, send_bytes

IMAGES = np.random.default_rng(2).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def png(pixels: Array) -> ic.Image:
    return encoded(Image.fromarray(pixels), "PNG")


def encoded(picture: Image.Image, file_format: str) -> ic.Image:
    file = io.BytesIO()
    picture.save(file, file_format)
    return ic.Image(encoded=file.getvalue())


def raw(pixels: Array) -> ic.Image:
    height, width, channels = pixels.shape
    return ic.Image(pixels=ic.Pixels(height=height, width=width, channels=channels, data=pixels.tobytes()))


@pytest.mark.parametrize("form", [png, raw])
def test_images_get_their_best_classes_and_logits(odd_server: ServerProcess, form: type) -> None:
    expected = infer(odd_server, infer_request("colour", images=IMAGES))
    response = classify(
        odd_server,
        ic.ClassifyRequest(model_name="colour", images=[form(i) for i in IMAGES], top_k=3, include_logits=True),
    )
    assert (response.model_name, response.model_version) == ("colour", "1")
    for result, probabilities, logits in zip(
        response.results, expected["probabilities"], expected["logits"], strict=True
    ):
        best = np.argsort(-probabilities)[:3]
        classes = result.classification.classes
        assert [entry.index for entry in classes] == best.tolist()
        assert [entry.label for entry in classes] == [LABELS[index] for index in best]
        assert [entry.probability for entry in classes] == pytest.approx(probabilities[best], rel=1e-5)
        assert list(result.classification.logits) == pytest.approx(logits, rel=1e-5, abs=1e-5)


def test_one_class_by_default_and_no_more_than_there_are(odd_server: ServerProcess) -> None:
    request = ic.ClassifyRequest(model_name="colour", images=[raw(IMAGES[0])])
    assert len(classify(odd_server, request).results[0].classification.classes) == 1
    assert not classify(odd_server, request).results[0].classification.logits
    request.top_k = 1000
    assert len(classify(odd_server, request).results[0].classification.classes) == 10


def test_a_broken_picture_does_not_cost_the_others_theirs(odd_server: ServerProcess) -> None:
    images = [png(IMAGES[0]), ic.Image(encoded=b"no picture"), raw(IMAGES[1]), ic.Image(), raw(IMAGES[2])]
    images[4].pixels.width = 9
    results = classify(odd_server, ic.ClassifyRequest(model_name="colour", images=images)).results
    assert [result.WhichOneof("outcome") for result in results] == [
        "classification",
        "error",
        "classification",
        "error",
        "error",
    ]
    assert [results[i].error.code for i in (1, 3, 4)] == [grpc.StatusCode.INVALID_ARGUMENT.value[0]] * 3
    assert results[1].error.message.startswith(
        "the image is of no known format; PNG, JPEG, WEBP, BMP, GIF, TIFF and PPM"
    )
    assert results[3].error.message == "the image is empty: encoded bytes or pixels are expected"
    assert results[4].error.message == "pixels of 8 x 9 x 3 take 216 bytes, got 192"


def test_only_broken_pictures_are_answered_too(odd_server: ServerProcess) -> None:
    request = ic.ClassifyRequest(model_name="colour", images=[ic.Image(encoded=b"x")] * 3)
    assert [result.error.code for result in classify(odd_server, request).results] == [3, 3, 3]


def test_more_images_than_a_run_takes_are_spread_over_several(odd_server: ServerProcess) -> None:
    """150 pictures for a limit of 64 rows a run; the order is kept."""
    order = [index % 5 for index in range(150)]
    singles = classify(odd_server, ic.ClassifyRequest(model_name="colour", images=[raw(i) for i in IMAGES]))
    many = ic.ClassifyRequest(model_name="colour", images=[png(IMAGES[index]) for index in order])
    for result, index in zip(classify(odd_server, many).results, order, strict=True):
        assert result.classification.classes[0].index == singles.results[index].classification.classes[0].index


@pytest.mark.parametrize("copies", [1, 20])
def test_pictures_of_every_kind_in_one_call_get_what_each_gets_alone(odd_server: ServerProcess, copies: int) -> None:
    """Whether they are decoded at once or in the pool, and by whom."""
    picture = Image.fromarray(IMAGES[0])
    kinds = [
        raw(IMAGES[0]),
        png(IMAGES[1]),
        encoded(picture, "JPEG"),
        encoded(picture.resize((300, 200)), "JPEG"),
        encoded(picture.resize((40, 50)), "GIF"),
        raw(np.asarray(picture.resize((30, 20)))),
        ic.Image(encoded=b"no picture"),
    ]
    alone = [classify(odd_server, ic.ClassifyRequest(model_name="colour", images=[kind])).results[0] for kind in kinds]
    together = classify(odd_server, ic.ClassifyRequest(model_name="colour", images=kinds * copies)).results
    assert [outcome(result) for result in together] == [outcome(result) for result in alone] * copies
    assert [bool(result.error.message) for result in alone] == [False] * 6 + [True]


def outcome(result: ic.ImageResult) -> tuple[int, str]:
    """The best class, and the words of an error."""
    classes = result.classification.classes
    return classes[0].index if classes else -1, result.error.message


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (ic.Image(encoded=png(IMAGES[0]).encoded[:60]), "the image is broken and cannot be decoded: image file is"),
        (ic.Image(pixels=ic.Pixels(height=8, width=8, channels=3, data=b"x")), "pixels of 8 x 8 x 3 take 192 bytes"),
        (ic.Image(pixels=ic.Pixels(height=0, width=8, channels=3)), "pixels are 0 high and 8 wide"),
        (ic.Image(pixels=ic.Pixels(height=2, width=2, channels=2, data=b"four" * 2)), "pixels have 2 channels"),
        (ic.Image(), "the image is empty"),
    ],
)
def test_a_lone_picture_fails_as_one_among_others_does(odd_server: ServerProcess, image: ic.Image, words: str) -> None:
    for count in (1, 2):
        results = classify(odd_server, ic.ClassifyRequest(model_name="colour", images=[image] * count)).results
        assert [result.error.message[: len(words)] for result in results] == [words] * count


def test_a_picture_above_the_limit_in_pixels_is_refused_alone(odd_server: ServerProcess) -> None:
    large = png(np.zeros((400, 400, 3), np.uint8))
    results = classify(odd_server, ic.ClassifyRequest(model_name="colour", images=[large, raw(IMAGES[0])])).results
    assert results[0].error.message.startswith(
        "the image has 400 x 400 pixels, more than the 100000 that are accepted:"
    )
    assert results[1].classification.classes


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (ic.ClassifyRequest(model_name="colour"), "INVALID_ARGUMENT", "the call has no images"),
        (ic.ClassifyRequest(model_name="nix", images=[ic.Image()]), "NOT_FOUND", "Request for unknown model: 'nix'"),
        (
            ic.ClassifyRequest(model_name="sum", images=[ic.Image()]),
            "INVALID_ARGUMENT",
            "the model 'sum' does not classify images",
        ),
        (ic.ClassifyRequest(model_name="broken", images=[ic.Image()]), "UNAVAILABLE", "Request for unknown model"),
        (
            ic.ClassifyRequest(model_name="linear", model_version="x", images=[ic.Image()]),
            "INVALID_ARGUMENT",
            "failed to get model version from specified version string 'x'",
        ),
    ],
)
def test_calls_that_make_no_sense_are_refused(
    odd_server: ServerProcess, request_: ic.ClassifyRequest, code: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        classify(odd_server, request_)
    got_code, got_words = refusal(caught.value)
    assert (got_code.name, got_words[: len(words)]) == (code, words)
    assert classify(odd_server, ic.ClassifyRequest(model_name="colour", images=[raw(IMAGES[0])])).results


def test_bytes_that_are_no_message_are_refused(odd_server: ServerProcess) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        send_bytes(odd_server, "/convserve.v1.ImageClassifier/Classify", b"\xff" * 9)
    assert refusal(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, "the message is not a ClassifyRequest")


def test_list_models_tells_what_can_be_asked(odd_server: ServerProcess) -> None:
    with odd_server.channel() as channel:
        listed = channel.unary_unary(
            "/convserve.v1.ImageClassifier/ListModels",
            request_serializer=ic.ListModelsRequest.SerializeToString,
            response_deserializer=ic.ListModelsResponse.FromString,
        )(ic.ListModelsRequest(), timeout=TIMEOUT_S)
    models = {(model.name, model.version): model for model in listed.models}
    assert models.keys() == {("linear", "1"), ("linear", "3"), ("colour", "1")}
    colour = models["colour", "1"]
    assert list(colour.labels) == LABELS
    assert (colour.image_height, colour.image_width, colour.image_channels) == (8, 8, 3)
    assert (colour.dataset, colour.test_accuracy, colour.precision, colour.provider) == ("random", 0.5, "fp32", "cpu")
    assert colour.parameters == 1920
