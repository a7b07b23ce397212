"""What the compiled extensions were built with, read off the files that are imported."""

import importlib.machinery
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

import hotfeast.hotpath

FOLDER = Path(hotfeast.hotpath.__file__).parent
EXTENSIONS = sorted(
    path
    for path in FOLDER.iterdir()
    if path.name.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))
)
_DF_BIND_NOW, _DF_1_NOW = 0x8, 0x1
_EXECUTABLE = 0x1
_WRITABLE = 0x2
_ENDBR64 = b"\xf3\x0f\x1e\xfa"


@pytest.fixture(scope="module", params=EXTENSIONS, ids=lambda path: path.name.split(".")[0])
def library(request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param.open("rb") as file:
        yield ELFFile(file)


def test_there_are_extensions() -> None:
    assert len(EXTENSIONS) == len(list(FOLDER.glob("*.pyx")))


def segments(library: Any, kind: str) -> list[Any]:
    return [each for each in library.iter_segments() if each["p_type"] == kind]


def test_relocations_are_read_only(library: Any) -> None:
    """All are resolved when the library is loaded (BIND_NOW), and then write-protected."""
    assert segments(library, "PT_GNU_RELRO")
    tags = {
        tag["d_tag"]: tag["d_val"]
        for section in library.iter_sections()
        if isinstance(section, DynamicSection)
        for tag in section.iter_tags()
    }
    assert (
        "DT_BIND_NOW" in tags
        or tags.get("DT_FLAGS", 0) & _DF_BIND_NOW
        or tags.get("DT_FLAGS_1", 0) & _DF_1_NOW
    )
    assert "DT_TEXTREL" not in tags


def test_no_memory_is_written_and_run(library: Any) -> None:
    [stack] = segments(library, "PT_GNU_STACK")
    assert not stack["p_flags"] & _EXECUTABLE
    for segment in segments(library, "PT_LOAD"):
        assert not (segment["p_flags"] & _EXECUTABLE and segment["p_flags"] & _WRITABLE)


def symbols(library: Any) -> set[str]:
    return {
        symbol.name
        for section in library.iter_sections()
        if isinstance(section, SymbolTableSection)
        for symbol in section.iter_symbols()
    }


def test_only_the_module_is_seen(library: Any) -> None:
    exported = {
        symbol.name
        for section in library.iter_sections()
        if section.name == ".dynsym"
        for symbol in section.iter_symbols()
        if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] == "STB_GLOBAL"
    }
    assert all(name.startswith("PyInit_") for name in exported)
    assert len(exported) == 1


def test_stacks_and_copies_are_checked() -> None:
    """Which functions need it is the compiler's choice: all extensions are looked at together."""
    found: set[str] = set()
    for path in EXTENSIONS:
        with path.open("rb") as file:
            found |= symbols(ELFFile(file))
    names = {name.partition("@")[0] for name in found}
    assert "__stack_chk_fail" in names
    assert any(name.endswith("_chk") and name != "__stack_chk_fail" for name in names)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is of x86-64")
def test_jumps_are_marked(library: Any) -> None:
    """Where calls may go there is an ENDBR64. (The file as a whole is marked only where the start
    files of the system's C library are, too.)"""
    [entry] = [
        symbol["st_value"]
        for symbol in library.get_section_by_name(".dynsym").iter_symbols()
        if symbol.name.startswith("PyInit_")
    ]
    text = library.get_section_by_name(".text")
    at = entry - text["sh_addr"]
    assert text.data()[at : at + 4] == _ENDBR64, (
        "built without the flags of setup.py: python setup.py build_ext --inplace --force"
    )
