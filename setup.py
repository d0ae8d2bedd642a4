# SPDX-License-Identifier: Apache-2.0
"""Only what pyproject.toml has no word for: the module that cffi builds, a library without symbols,
and the files of packaging/, which are installed as shmpool/packaging/."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

PACKAGING = sorted(Path("packaging").iterdir())


class BuildExtension(build_ext):
    """Strips what is installed. A library that is built in the source tree keeps its symbols, for
    debuggers and for the tests that read them."""

    def run(self) -> None:
        in_place = self.inplace  # super().run() changes it
        if in_place:
            self.build_lib += "-in-place"  # not the stripped one of a wheel
        super().run()
        if not in_place:
            self.spawn(["strip", "--strip-unneeded", *self.get_outputs()])

    def build_extensions(self) -> None:
        """Leaves out where this interpreter's own libraries are: a folder of this machine."""
        self.compiler.linker_so = [
            option for option in self.compiler.linker_so if not option.startswith("-Wl,-rpath")
        ]
        super().build_extensions()


class BuildModules(build_py):
    """Adds packaging/, which the source tree keeps beside the package."""

    def _packaged(self) -> list[tuple[Path, Path]]:
        """The files and where they are put. A source tree that is installed has them already."""
        if self.editable_mode:
            return []
        folder = Path(self.build_lib, "shmpool", "packaging")
        return [(file, folder / file.name) for file in PACKAGING]

    def run(self) -> None:
        super().run()
        for file, to in self._packaged():
            self.mkpath(str(to.parent))
            self.copy_file(str(file), str(to))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *(str(to) for _, to in self._packaged())]


setup(
    cffi_modules=["shmpool/native/build.py:ffibuilder"],
    cmdclass={"build_ext": BuildExtension, "build_py": BuildModules},
)
