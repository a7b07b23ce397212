"""The pages that are made from the code have all of it."""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from google.protobuf.descriptor import Descriptor, FileDescriptor

from hotfeast.server.cli import app
from hotfeast.serving.v1 import push_pb2, serving_pb2, traffic_pb2, value_pb2

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "docs" / "generate"))

from commands import command_page  # noqa: E402
from protocol import protocol_page  # noqa: E402

FILES = [module.DESCRIPTOR for module in (push_pb2, serving_pb2, traffic_pb2, value_pb2)]


@pytest.fixture(scope="module")
def protocol() -> str:
    return protocol_page(CHECKOUT)


def messages_of(messages: Mapping[str, Descriptor]) -> Iterator[Descriptor]:
    """These and those inside them; entries of maps are no messages of their own."""
    for message in messages.values():
        if not message.GetOptions().map_entry:
            yield message
            yield from messages_of(message.nested_types_by_name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file.name).name)
def test_the_protocol_has_all_of(file: FileDescriptor, protocol: str) -> None:
    for message in messages_of(file.message_types_by_name):
        name = message.full_name.removeprefix(f"{file.package}.")
        section = section_of(protocol, f"### {name} {{")
        for field in message.fields:
            assert re.search(rf"\| (&nbsp;)*`{field.name}` \| {field.number} \|", section), (
                field.name
            )
    for enum in file.enum_types_by_name.values():
        section = section_of(protocol, f"### enum {enum.name} {{")
        for value in enum.values:
            assert f"| `{value.name}` | {value.number} |" in section
    for service in file.services_by_name.values():
        for method in service.methods:
            section = section_of(protocol, f"#### {service.name}.{method.name}")
            assert f"[`{method.input_type.name}`]" in section
            assert (
                f"with{' a stream of' * method.server_streaming} [`{method.output_type.name}`]"
                in section
            )


def section_of(page: str, heading: str) -> str:
    """What stands under a heading."""
    begin = page.index(f"\n{heading}")
    end = page.find("\n###", begin + 1)
    return page[begin : end if end > 0 else None]


def test_links_within_the_protocol_lead_somewhere(protocol: str) -> None:
    wanted = set(re.findall(r"\]\(#([\w-]+)\)", protocol))
    assert wanted
    assert wanted <= set(re.findall(r"\{ #([\w-]+) \}", protocol))


def test_comments_of_the_protocol_are_there(protocol: str) -> None:
    told = section_of(protocol, "### RowRejection {")
    assert "| `row` | 1 | `uint32` | Position in the batch, from 0. |" in told
    push = section_of(protocol, "### service Push {")
    # What is aligned stays so.
    assert "\n    NOT_FOUND            No such push source or feature view;" in push
    columns = section_of(protocol, "### ColumnBatch {")
    assert "map of `string` to [`RepeatedValue`](#repeatedvalue)" in columns


def commands_of(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """All commands, with their names."""
    if isinstance(command, typer.core.TyperGroup):
        for each, inner in command.commands.items():
            yield from commands_of(inner, f"{name} {each}")
    else:
        yield name, command


def test_the_command_line_has_all_of_it() -> None:
    page = command_page(CHECKOUT)
    found = list(commands_of(typer.main.get_command(app), "hotfeast"))
    assert len(found) > 20
    for name, command in found:
        begin = page.index(f"# `{name}`\n")
        section = page[begin : page.find("\n## ", begin)]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert parameter.opts[0] in section, f"{name} {parameter.opts[0]}"


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_links_of_what_is_not_on_the_site(page: str) -> None:
    """Those of the site are judged when it is built."""
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", (CHECKOUT / page).read_text()):
        path, _, anchor = link.partition("#")
        target = CHECKOUT / (path or page)
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", target.read_text())
            anchors = [re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings]
            assert anchor in anchors, link
