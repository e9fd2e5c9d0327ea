"""The generated code is that of the .proto files, and the wire is the protocol's."""

import subprocess
import sys
from pathlib import Path

from google.protobuf import descriptor

from service.pb import open_inference_pb2 as pb
from tests.servers import ROOT

# Field numbers and types as the protocol's public definition has them, in our own shorthand.
WIRE = {
    "ServerMetadataResponse": "name=1:9 version=2:9 extensions=3:9*",
    "ModelReadyRequest": "name=1:9 version=2:9",
    "ModelReadyResponse": "ready=1:8",
    "ModelMetadataResponse": "name=1:9 versions=2:9* platform=3:9 inputs=4:11* outputs=5:11* properties=6:11*",
    "ModelMetadataResponse.TensorMetadata": "name=1:9 datatype=2:9 shape=3:3*",
    "InferParameter": "bool_param=1:8 int64_param=2:3 string_param=3:9 double_param=4:1 uint64_param=5:4",
    "InferTensorContents": (
        "bool_contents=1:8* int_contents=2:5* int64_contents=3:3* uint_contents=4:13* uint64_contents=5:4* "
        "fp32_contents=6:2* fp64_contents=7:1* bytes_contents=8:12*"
    ),
    "ModelInferRequest": (
        "model_name=1:9 model_version=2:9 id=3:9 parameters=4:11* inputs=5:11* outputs=6:11* raw_input_contents=7:12*"
    ),
    "ModelInferRequest.InferInputTensor": "name=1:9 datatype=2:9 shape=3:3* parameters=4:11* contents=5:11",
    "ModelInferRequest.InferRequestedOutputTensor": "name=1:9 parameters=2:11*",
    "ModelInferResponse": (
        "model_name=1:9 model_version=2:9 id=3:9 parameters=4:11* outputs=5:11* raw_output_contents=6:12*"
    ),
    "ModelInferResponse.InferOutputTensor": "name=1:9 datatype=2:9 shape=3:3* parameters=4:11* contents=5:11",
    "ModelConfigResponse": "config=1:11",
    "ModelInput": "name=1:9 data_type=2:14 format=3:14 dims=4:3*",
    "ModelOutput": "name=1:9 data_type=2:14 dims=3:3* label_filename=4:9",
    "RepositoryIndexResponse.ModelIndex": "name=1:9 version=2:9 state=3:9 reason=4:9",
}


def test_generated_code_is_current(tmp_path: Path) -> None:
    """`make proto` would change nothing."""
    subprocess.run([sys.executable, ROOT / "proto" / "generate.py", tmp_path], check=True)
    generated = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in (ROOT / "service" / "pb").glob("*_pb2*")}
    kept |= {path.name: path.read_bytes() for path in (ROOT / "service" / "pb").glob("*.binpb")}
    assert len(generated) == 3 * len(list((ROOT / "proto").glob("*.proto"))) + 1
    assert kept == generated


def test_the_wire_is_the_protocols() -> None:
    for name, fields in WIRE.items():
        message = pb.DESCRIPTOR.message_types_by_name[name.partition(".")[0]]
        for part in name.split(".")[1:]:
            message = message.nested_types_by_name[part]
        assert " ".join(map(_shorthand, message.fields)) == fields, name
    assert pb.DESCRIPTOR.package == "inference"


def _shorthand(field: descriptor.FieldDescriptor) -> str:
    return f"{field.name}={field.number}:{field.type}{'*' if field.is_repeated else ''}"
