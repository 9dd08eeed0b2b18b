# SPDX-License-Identifier: Apache-2.0
"""The build: generates the modules of the wire contract, bundles the daemon where it was built
(daemon_bundle.py), then does what pyproject.toml says.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from daemon_bundle import bundle, daemon_program, platform_tag  # noqa: E402


def generate_protos() -> None:
    """With the build's own Python, which has grpcio-tools; a source distribution has them."""
    modules = HERE / "src" / "attnd" / "v1"
    if not (HERE.parent.parent / "proto" / "attnd").is_dir() and any(modules.glob("*_pb2.py")):
        return
    subprocess.run([sys.executable, str(HERE / "generate_protos.py")], check=True)


class BuildPackages(build_py):
    """The packages, and the daemon in attnd/_bin."""

    def run(self) -> None:
        """Into an empty folder: what a former build left there is in no wheel."""
        generate_protos()
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        program = daemon_program()
        if program is not None and not self.editable_mode:
            bundle(program, Path(self.build_lib) / "attnd" / "_bin")


class Package(Distribution):
    """Of one platform where the daemon is in it: a program is no pure Python."""

    def has_ext_modules(self) -> bool:
        """Decides where the wheel's files go, and asks for a platform's tag."""
        return daemon_program() is not None


class PlatformWheel(bdist_wheel):
    """Any Python's: py3-none-any, or with a daemon py3-none-manylinux_..."""

    def run(self) -> None:
        """From an empty folder: a build that failed may have left files there."""
        shutil.rmtree(self.bdist_dir, ignore_errors=True)
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """As the file is named."""
        if self.root_is_pure:
            return super().get_tag()
        return "py3", "none", platform_tag(Path(self.bdist_dir) / "attnd" / "_bin")


class SourceWithProtos(sdist):
    """With the generated modules: ../../proto is not in it."""

    def run(self) -> None:
        """Generates first."""
        generate_protos()
        super().run()


setup(
    distclass=Package,
    cmdclass={"bdist_wheel": PlatformWheel, "build_py": BuildPackages, "sdist": SourceWithProtos},
)
