"""Build steps that pyproject.toml cannot state: protobuf code and the Cython extensions.

Names: a folder at the top of the checkout installs as a package below `hotfeast` (`package-dir` in
pyproject.toml). Cython resolves `cimport` by package path, so the build makes a tree of links,
`build/namespace/hotfeast/`, in which the folders stand under their installed names.

Environment:
    HOTFEAST_SANITIZE  `address`: build the extensions with AddressSanitizer and
                       UndefinedBehaviorSanitizer. `fuzzer`, with CC=clang: also with what libFuzzer
                       is guided by; the runtime libraries are to be preloaded.
    HOTFEAST_OPTIMIZE  The level of optimization, 3 unless given; 0 compiles far sooner.
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
NAMESPACE = ROOT / "build" / "namespace"
PROTO_FOLDER = Path("protos/hotfeast/serving/v1")
# Marks where jumps and returns may go, for processors that heed it.
_BRANCH_PROTECTION = {
    "x86_64": ["-fcf-protection"],
    "aarch64": ["-mbranch-protection=standard"],
}


def link_namespace() -> None:
    """Makes `build/namespace/hotfeast/<package>` point at the folder of each package."""
    targets = {
        "clients": "clients",
        "hotpath": "hotpath",
        "protos": "protos",
        "server": "server",
        "serving/v1": str(PROTO_FOLDER),
    }
    for name, folder in targets.items():
        link = NAMESPACE / "hotfeast" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(ROOT / folder, link.parent))


def generate_protos() -> None:
    """Writes `*_pb2.py`, `*_pb2.pyi` and `*_pb2_grpc.py` next to the .proto files."""
    from importlib.resources import files

    from grpc_tools import protoc

    protos = sorted(PROTO_FOLDER.glob("*.proto"))
    made = [p.with_name(p.stem + "_pb2.py") for p in protos]
    newest = max(p.stat().st_mtime for p in protos)
    if all(m.exists() and m.stat().st_mtime >= newest for m in made):
        return
    code = protoc.main(
        [
            "protoc",
            "--proto_path=protos",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            "--python_out=protos",
            "--pyi_out=protos",
            "--grpc_python_out=protos",
            *map(str, protos),
        ]
    )
    if code != 0:
        sys.exit(f"protoc failed with exit code {code}")


class BuildPy(build_py):
    def run(self) -> None:
        generate_protos()
        super().run()


class BuildExt(build_ext):
    def run(self) -> None:
        from Cython.Build import cythonize

        link_namespace()
        translated = cythonize(
            self.extensions,
            nthreads=self.parallel or 0,
            build_dir=str(Path("build") / "cython"),
            include_path=[str(NAMESPACE)],
            compiler_directives={
                "language_level": 3,
                "boundscheck": False,
                "wraparound": False,
                "initializedcheck": False,
                "cdivision": True,
                "embedsignature": True,
            },
        )
        # setuptools has put attributes of its own on the extensions, so only the sources change.
        for extension, c_extension in zip(self.extensions, translated, strict=True):
            extension.sources = c_extension.sources
        super().run()


class Sdist(sdist):
    def run(self) -> None:
        generate_protos()
        super().run()


def extensions() -> list[Extension]:
    level = os.environ.get("HOTFEAST_OPTIMIZE", "3")
    compile_args = [f"-O{level}", "-fno-strict-aliasing", "-fvisibility=hidden", "-Wall", "-Wextra"]
    compile_args += ["-Wno-unused-parameter", "-Wno-missing-field-initializers"]
    # Hardening, which tests/hotpath/test_hardening.py looks for in what was built.
    compile_args += ["-fstack-protector-strong", "-fstack-clash-protection", "-D_FORTIFY_SOURCE=2"]
    compile_args += ["-Wformat", "-Werror=format-security"]
    compile_args += _BRANCH_PROTECTION.get(platform.machine(), [])
    link_args = ["-Wl,-z,relro,-z,now,-z,noexecstack"]
    sanitize = os.environ.get("HOTFEAST_SANITIZE")
    if sanitize in ("address", "fuzzer"):
        kinds = "address,undefined" + (",fuzzer-no-link" if sanitize == "fuzzer" else "")
        flags = [f"-fsanitize={kinds}", "-fno-omit-frame-pointer", "-g1", "-O1"]
        flags += ["-U_FORTIFY_SOURCE", "-fno-sanitize-recover=undefined"]
        compile_args += flags
        link_args += flags
    elif sanitize:
        sys.exit(f"HOTFEAST_SANITIZE={sanitize!r}: the sanitizer builds are 'address' and 'fuzzer'")
    import numpy

    return [
        Extension(
            f"hotfeast.hotpath.{source.stem}",
            [str(source)],
            include_dirs=[numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
        for source in sorted(Path("hotpath").glob("*.pyx"))
    ]


setup(
    ext_modules=extensions(),
    cmdclass={"build_py": BuildPy, "build_ext": BuildExt, "sdist": Sdist},
)
