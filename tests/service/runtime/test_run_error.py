"""Of ONNX Runtime's messages, callers get one sentence without places in source code and paths of files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.run_error import MAX_SENTENCE, RunError

PREFIX = "Non-zero status code returned while running"
MESSAGES: dict[str, tuple[str, tuple[str, str, str, str]]] = {
    "value": (
        f"[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : {PREFIX} Gather node. Name:'emb' Status Message: index 10 is out",
        ("INVALID_ARGUMENT", "Gather", "emb", "index 10 is out"),
    ),
    "condition": (
        (
            f"[ONNXRuntimeError] : 1 : FAIL : {PREFIX} Reshape node. Name:'/layer/r1' Status Message: "
            "/onnxruntime_src/onnxruntime/core/providers/cpu/tensor/reshape_helper.h:91 onnxruntime::ReshapeHelper::"
            "ReshapeHelper(const onnxruntime::TensorShape&, bool) input_shape_size == size was false. "
            "The input tensor cannot be reshaped to the requested shape. Input shape:{2,4}, requested shape:{1,2,2}\n"
        ),
        ("FAIL", "Reshape", "/layer/r1", "The input tensor cannot be reshaped to the requested shape."),
    ),
    "place": (
        f"[ONNXRuntimeError] : 1 : FAIL : {PREFIX} MatMul node. Name:'' Status Message: matmul_helper.h:59 Compute bad",
        ("FAIL", "MatMul", "", "Compute bad"),
    ),
    "input": (
        "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid rank for input: x Got: 2 Expected: 1\n Please fix it.",
        ("INVALID_ARGUMENT", "", "", "Invalid rank for input: x Got: 2 Expected: 1"),
    ),
    "paths": (
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : cannot map /srv/models/secret/model.onnx.data of C:\\a\\b.bin",
        ("RUNTIME_EXCEPTION", "", "", "cannot map … of …"),
    ),
    "ours": ("output 'y' has shape (1,) for 2 rows", ("", "", "", "output 'y' has shape (1,) for 2 rows")),
    "nothing": ("", ("", "", "", "")),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages_are_taken_apart(case: str) -> None:
    """Code, kind and name of the node, and the first sentence."""
    message, expected = MESSAGES[case]
    found = RunError.parse(message)
    assert (found.code, found.node_kind, found.node_name, found.sentence) == expected


@given(
    st.text(max_size=50), st.text(max_size=50), st.sampled_from(["/srv/models/x.onnx", "/home/a b/c.h:7", "C:\\x\\y"])
)
def test_paths_are_never_told(before: str, after: str, path: str) -> None:
    """Wherever a path stands in a message, no folder of it reaches a caller."""
    sentence = RunError.parse(f"{before} {path} {after}").sentence
    assert not any(part in sentence for part in ("/srv/models", "/home/a", "x\\y"))
    assert len(sentence) <= MAX_SENTENCE
