"""Hardens the C kernel; everything else about the build is in pyproject.toml."""

import platform
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError

# What the kernel does not need to be fast, and what makes an error in it hard to exploit. Without debug information,
# no path of the machine that builds it gets into it.
COMPILING = [
    *("-g0", "-fstack-protector-strong", "-fstack-clash-protection", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"),
    *{"x86_64": ["-fcf-protection"], "aarch64": ["-mbranch-protection=standard"]}.get(platform.machine(), []),
]
LINKING = ["-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack", "-Wl,--as-needed"]


class HardenedBuild(build_ext):
    """Builds with those of the options that the compiler knows: an unknown one would cost the whole kernel."""

    def build_extensions(self) -> None:
        # Python's own options may name the folder of its library, where an attacker could put one for the kernel.
        linker = [part for part in self.compiler.linker_so if not part.startswith(("-Wl,-rpath", "-Wl,-R"))]
        self.compiler.set_executables(linker_so=linker)
        compiling = [option for option in COMPILING if self._knows([option], [])]
        linking = [option for option in LINKING if self._knows([], [option])]
        for extension in self.extensions:
            extension.extra_compile_args += compiling
            extension.extra_link_args += linking
        super().build_extensions()

    def _knows(self, compiling: list[str], linking: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "option.c")
            source.write_text("int option(void) { return 0; }\n")
            try:
                objects = self.compiler.compile([str(source)], folder, extra_postargs=["-Werror", "-O2", *compiling])
                self.compiler.link_shared_object(objects, str(Path(folder, "option.so")), extra_postargs=linking)
            except (CCompilerError, OSError):
                return False
        return True


if __name__ == "__main__":
    setup(cmdclass={"build_ext": HardenedBuild})
