# SPDX-License-Identifier: Apache-2.0
"""The build: generates the modules of the wire contract, then does what pyproject.toml says."""

import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithProtos(build_py):
    """Generates src/attnd/v1 first. Works in the repository, where ../../proto is."""

    def run(self) -> None:
        """Runs generate_protos.py with the build's own Python, which has grpcio-tools."""
        subprocess.run(
            [sys.executable, str(Path(__file__).parent / "generate_protos.py")], check=True
        )
        super().run()


setup(cmdclass={"build_py": BuildWithProtos})
