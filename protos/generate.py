"""Generates mesh/pb from the .proto sources beside this file.

The Open Inference Protocol's modules get a descriptor pool of their own: `tritonclient` and
`kserve` register the same message names from files of other names, and the default pool of a
process that imports both would refuse the second.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PRIVATE_POOL = ("inference", "model_config")


def generate(root: Path) -> None:
    """Writes `mesh/pb/*_pb2.py`, `*_pb2.pyi` and `*_pb2_grpc.py` below `root`."""
    out = root / "mesh" / "pb"
    out.mkdir(parents=True, exist_ok=True)
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    sources = sorted(HERE.glob("*.proto"))
    arguments = [
        f"-Imesh/pb={HERE}",
        f"-I{well_known}",
        f"--python_out={root}",
        f"--pyi_out={root}",
        f"--grpc_python_out={root}",
        *(f"mesh/pb/{source.name}" for source in sources),
    ]
    if protoc.main(["protoc", *arguments]) != 0:
        raise SystemExit("protoc failed")
    for name in PRIVATE_POOL:
        path = out / f"{name}_pb2.py"
        code = path.read_text()
        patched = code.replace("_descriptor_pool.Default()", "inference_pool")
        if patched == code:
            raise SystemExit(f"{path}: no default pool to replace; has the generator changed?")
        anchor = "from google.protobuf import symbol_database as _symbol_database\n"
        patched = patched.replace(anchor, f"{anchor}from mesh.pb.pool import inference_pool\n")
        path.write_text(patched)
    for path in out.glob("*_pb2_grpc.py"):  # a proto without services leaves an empty stub
        if not any(line.startswith("class ") for line in path.read_text().splitlines()):
            path.unlink()


def check() -> None:
    """Exits 1 unless the committed code is what these sources give."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = {path.name: path.read_text() for path in Path(folder, "mesh", "pb").iterdir()}
    committed = HERE.parent / "mesh" / "pb"
    stale = [
        name
        for name, code in fresh.items()
        if not (committed / name).exists() or (committed / name).read_text() != code
    ]
    if stale:
        raise SystemExit(f"mesh/pb is not what protos/ gives; run `make protos`: {sorted(stale)}")


if __name__ == "__main__":
    check() if "--check" in sys.argv[1:] else generate(HERE.parent)
