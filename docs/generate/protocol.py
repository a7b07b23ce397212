"""The page of the protocol, from the .proto files: their descriptors and comments."""

import re
import tempfile
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

# Numbers of fields in descriptor.proto, of which the paths of comments are made.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _NESTED, _INNER_ENUMS, _ONEOFS = 2, 3, 4, 8
_METHODS, _VALUES = 2, 2

_PACKAGE = "hotfeast.serving.v1"
_OPENING = f"""# Protocol

The package `{_PACKAGE}`, as its `.proto` files have it. They are in the folder
`protos/hotfeast/serving/v1` of a checkout; an installed package has them under
`hotfeast.protos.PROTO_ROOT`. Services of Feast's protos are served as well, under their own names:
`feast.serving.ServingService` and `GrpcFeatureServer`.
"""

Path_ = tuple[int, ...]


def protocol_page(root: Path) -> str:
    """The page, in Markdown.

    Args:
        root: Of the checkout.

    Raises:
        ValueError: The files cannot be compiled.
    """
    described = compile_protos(root / "protos", f"{_PACKAGE.replace('.', '/')}/*.proto")
    ours = [file for file in described.file if file.package == _PACKAGE]
    # Values, which every service has, come after the services.
    ours.sort(key=lambda file: not file.service)
    return "\n".join([_OPENING, *(line for file in ours for line in _Page(file).lines())])


def compile_protos(folder: Path, pattern: str) -> FileDescriptorSet:
    """Descriptors of .proto files and of all that they import, with comments.

    Args:
        folder: What imports are relative to.
        pattern: Which files in it.

    Raises:
        ValueError: They cannot be compiled; protoc has told why on standard error.
    """
    names = sorted(str(path) for path in folder.glob(pattern))
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "described")
        code = protoc.main(
            [
                "protoc",
                f"--proto_path={folder}",
                f"--proto_path={files('grpc_tools') / '_proto'}",
                "--include_imports",
                "--include_source_info",
                f"--descriptor_set_out={out}",
                *names,
            ]
        )
        if code:
            raise ValueError(f"protoc cannot compile {folder / pattern}")
        return FileDescriptorSet.FromString(out.read_bytes())


class _Page:
    """What one file has."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(place.path): place.leading_comments or place.trailing_comments
            for place in file.source_code_info.location
        }

    def lines(self) -> Iterator[str]:
        """Services first, then messages and enums, in the file's order."""
        name = Path(self._file.name).name
        yield f"## {name}\n"
        # The comment of a file stands before its `syntax`.
        yield self._text((12,))
        for index, service in enumerate(self._file.service):
            yield from self._service(service, (_SERVICES, index))
        for index, message in enumerate(self._file.message_type):
            yield from self._message(message, (_MESSAGES, index), "")
        for index, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, (_ENUMS, index), "")

    def _service(self, service: ServiceDescriptorProto, path: Path_) -> Iterator[str]:
        yield f"### service {service.name} {{ #{_anchor(service.name)} }}\n"
        yield self._text(path)
        for index, method in enumerate(service.method):
            yield f"#### {service.name}.{method.name}\n"
            yield f"{_call(method)}\n"
            yield self._text((*path, _METHODS, index))

    def _message(self, message: DescriptorProto, path: Path_, outer: str) -> Iterator[str]:
        name = f"{outer}{message.name}"
        yield f"### {name} {{ #{_anchor(name)} }}\n"
        yield self._text(path)
        entries = {
            f".{_PACKAGE}.{name}.{nested.name}": nested
            for nested in message.nested_type
            if nested.options.map_entry
        }
        if message.field:
            yield "| field | | type | |\n|---|---|---|---|"
        oneof: int | None = None
        for index, field in enumerate(message.field):
            inside = field.oneof_index if _in_oneof(field) else None
            if inside is not None and inside != oneof:
                text = self._line((*path, _ONEOFS, inside))
                yield f"| *one of:* `{message.oneof_decl[inside].name}` | | | {text} |"
            oneof = inside
            indent = "&nbsp;&nbsp;" if inside is not None else ""
            yield (
                f"| {indent}`{field.name}` | {field.number} | {_type(field, entries)} "
                f"| {self._line((*path, _FIELDS, index))} |"
            )
        yield ""
        for index, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from self._message(nested, (*path, _NESTED, index), f"{name}.")
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*path, _INNER_ENUMS, index), f"{name}.")

    def _enum(self, enum: EnumDescriptorProto, path: Path_, outer: str) -> Iterator[str]:
        name = f"{outer}{enum.name}"
        yield f"### enum {name} {{ #{_anchor(name)} }}\n"
        yield self._text(path)
        yield "| value | | |\n|---|---|---|"
        for index, value in enumerate(enum.value):
            yield f"| `{value.name}` | {value.number} | {self._line((*path, _VALUES, index))} |"
        yield ""

    def _text(self, path: Path_) -> str:
        """The comment of something as paragraphs; what is aligned in it stays so."""
        return "\n".join(_paragraphs(self._comments.get(path, "").splitlines()))

    def _line(self, path: Path_) -> str:
        """The comment of something as one cell of a table."""
        return " ".join(self._comments.get(path, "").split()).replace("|", "\\|")


def _paragraphs(comment: Iterable[str]) -> Iterator[str]:
    """Lines of a comment in Markdown: those that are indented in it are a block of code."""
    was_code = False
    for line in comment:
        text = line.removeprefix(" ")
        code = text.startswith("  ")
        if code != was_code:
            yield ""
        was_code = code or (was_code and not text)
        yield f"    {text[2:]}" if code else text
    yield ""


def _call(method: MethodDescriptorProto) -> str:
    asked, answered = _link(method.input_type), _link(method.output_type)
    streamed = " a stream of" if method.client_streaming else ""
    answers = " a stream of" if method.server_streaming else ""
    return f"Takes{streamed} {asked}, answers with{answers} {answered}."


def _in_oneof(field: FieldDescriptorProto) -> bool:
    return field.HasField("oneof_index") and not field.proto3_optional


def _type(field: FieldDescriptorProto, entries: dict[str, DescriptorProto]) -> str:
    entry = entries.get(field.type_name)
    if entry is not None:
        key, value = entry.field
        return f"map of {_type(key, {})} to {_type(value, {})}"
    name = (
        _link(field.type_name)
        if field.type_name
        else f"`{FieldDescriptorProto.Type.Name(field.type).removeprefix('TYPE_').lower()}`"
    )
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if field.proto3_optional else name


def _link(type_name: str) -> str:
    """A type by its name, with a link where the page has it."""
    ours = f".{_PACKAGE}."
    if type_name.startswith(ours):
        name = type_name.removeprefix(ours)
        return f"[`{name}`](#{_anchor(name)})"
    return f"`{type_name.removeprefix('.')}`"


def _anchor(name: str) -> str:
    return re.sub(r"\W", "-", name).lower()
