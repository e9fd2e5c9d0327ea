"""Writes the image's software bill of materials: CycloneDX 1.6, of what is installed.

Run in the image's build, with the standard library alone: ``python3 sbom.py FILE FOLDER MODELS [DPKG_STATUS]``. FOLDER
has Python distributions, MODELS the bundled models, DPKG_STATUS Debian's packages.
"""

import hashlib
import json
import platform
import re
import sys
import uuid
from importlib import metadata
from pathlib import Path


def python_packages(folder: Path) -> list[dict[str, object]]:
    """One component for each distribution in the folder."""
    components = []
    for each in metadata.distributions(path=[str(folder)]):
        name = re.sub(r"[-_.]+", "-", each.name).lower()
        component = component_of("library", name, each.version, f"pkg:pypi/{name}@{each.version}")
        told = each.metadata.json
        if expression := told.get("license_expression"):
            component["licenses"] = [{"expression": expression}]
        elif (license_ := str(told.get("license", ""))) and len(license_) <= 80 and "\n" not in license_:
            component["licenses"] = [{"license": {"name": license_}}]  # longer ones are its whole text
        components.append(component)
    return components


def debian_packages(status: Path) -> list[dict[str, object]]:
    """One component for each package that dpkg has installed; none where there is no dpkg."""
    components = []
    for paragraph in status.read_text(encoding="utf-8").split("\n\n") if status.exists() else ():
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.+)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={fields['Architecture']}"
            components.append(component_of("library", name, version, purl))
    return components


def model_files(folder: Path) -> list[dict[str, object]]:
    """One component for each ``<name>/<version>/model.onnx``, with its hash."""
    components = []
    for path in folder.glob("*/*/model.onnx"):
        name, version = path.parts[-3:-1]
        component = component_of("machine-learning-model", name, version)
        component["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]
        components.append(component)
    return components


def component_of(kind: str, name: str, version: str, purl: str = "") -> dict[str, object]:
    """A component with a reference of its own."""
    component: dict[str, object] = {"type": kind, "name": name, "version": version}
    return component | {"bom-ref": purl or f"{kind}:{name}@{version}"} | ({"purl": purl} if purl else {})


def bill(components: list[dict[str, object]]) -> dict[str, object]:
    """The document: the same components give the same bytes."""
    ordered = sorted(components, key=lambda each: str(each["bom-ref"]))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(ordered))}",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "convserve", "bom-ref": "convserve-image"}},
        "components": ordered,
    }


if __name__ == "__main__":
    target, installed, models, *status = map(Path, sys.argv[1:])
    python = component_of("application", "python", platform.python_version())
    parts = [python, *python_packages(installed), *model_files(models)]
    for file in status:
        parts += debian_packages(file)
    target.write_text(json.dumps(bill(parts), indent=1) + "\n", encoding="utf-8")
