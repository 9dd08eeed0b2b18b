# SPDX-License-Identifier: Apache-2.0
"""Generates the Python modules of proto/attnd/v1 into src/attnd/v1.

    python client/python/generate_protos.py            # does nothing where they are up to date
    python client/python/generate_protos.py --force

The modules are never committed: this runs before the demo, the tests and the build of the package.
Needs grpcio-tools in the Python that runs it. Exit code 0: the modules are there.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROTO_ROOT = HERE.parent.parent / "proto"
OUTPUT_ROOT = HERE / "src"
STAMP = OUTPUT_ROOT / "attnd" / "v1" / ".generated"


def proto_files() -> list[Path]:
    """The .proto files, sorted; an error where the package was moved away from them."""
    files = sorted((PROTO_ROOT / "attnd" / "v1").glob("*.proto"))
    if not files:
        raise SystemExit(f"generate_protos: no .proto files under {PROTO_ROOT / 'attnd' / 'v1'}")
    return files


def fingerprint(files: list[Path]) -> str:
    """Changes with the protos, with the generator and with this script."""
    digest = hashlib.sha256(metadata.version("grpcio-tools").encode())
    for path in [*files, Path(__file__)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def up_to_date(files: list[Path], want: str) -> bool:
    """Whether every module is there and was made from what is here now."""
    modules = [STAMP.parent / f"{path.stem}_pb2.py" for path in files]
    return (
        STAMP.is_file()
        and STAMP.read_text() == want
        and all(module.is_file() for module in modules)
    )


def generate(files: list[Path], want: str) -> None:
    """Runs protoc into a folder beside the target, then moves file by file: two can run at once."""
    from grpc_tools import protoc

    well_known = Path(protoc.__file__).parent / "_proto"
    STAMP.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=OUTPUT_ROOT, prefix=".protos-") as scratch:
        status = protoc.main(
            [
                "protoc",
                f"--proto_path={PROTO_ROOT}",
                f"--proto_path={well_known}",
                f"--python_out={scratch}",
                f"--pyi_out={scratch}",
                f"--grpc_python_out={scratch}",
                *(str(path.relative_to(PROTO_ROOT)) for path in files),
            ]
        )
        if status != 0:
            raise SystemExit(f"generate_protos: protoc failed with exit code {status}")
        for path in sorted((Path(scratch) / "attnd" / "v1").iterdir()):
            os.replace(path, STAMP.parent / path.name)
    STAMP.write_text(want)


def main() -> None:
    """Parses the flags and generates where something changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", action="store_true", help="generate even where up to date")
    args = parser.parse_args()
    files = proto_files()
    want = fingerprint(files)
    if args.force or not up_to_date(files, want):
        with contextlib.redirect_stdout(sys.stderr):
            generate(files, want)


if __name__ == "__main__":
    main()
