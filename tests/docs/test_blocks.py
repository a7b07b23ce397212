"""Every block of code in the Markdown files is run, and every example in the client's docstrings.

One file, with all else that needs the gateway, so that there is one where tests are run by several
processes.
"""

import ast
import doctest
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from doc_blocks import Block, docstring_blocks, markdown_files, page_blocks
from doc_commands import run_commands
from doc_examples import compared, inside_a_client, names_for
from doc_files import compile_proto, read_yaml
from doc_python import run_python
from doc_world import World

from hotfeast.clients import FeatureClient, MissingPackage

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "generate"))

from metrics import described_metrics

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLES = [
    block
    for path in sorted((CHECKOUT / "clients").glob("*.py"))
    for block in docstring_blocks(path, path.name)
]
PAGES = [str(path.relative_to(CHECKOUT)) for path in markdown_files(CHECKOUT)]

NOT_RUN = {
    "docs/explanation/architecture.md": "a picture",
    "docs/explanation/threat-model.md": "a picture",
    "docs/how-to/materialize.md": "Spark needs a JVM",
}
"""Pages with a block that cannot be run, and why; one a page."""


def blocks_of(page: str) -> list[Block]:
    return page_blocks(CHECKOUT / page, page)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)])
def test_the_blocks_of(page: str, world: World) -> None:
    names: dict[str, Any] = {}
    printed = ""
    with world.inside():
        try:
            for block in blocks_of(page):
                printed = run(block, world, names, printed)
        finally:
            for value in names.values():
                if isinstance(value, FeatureClient):
                    value.close()


def run(block: Block, world: World, names: dict[str, Any], printed: str) -> str:
    """Runs a block.

    Args:
        block: The block.
        world: What it is run against.
        names: The namespace of the page's Python.
        printed: What the block before it has printed.

    Returns:
        What this one prints.
    """
    how, _, what = block.attributes.get("run", "").partition(": ")
    if how == "elsewhere":
        file, _, test = what.partition("::")
        text = (world.checkout / file).read_text()
        assert re.search(rf"^(async )?def {test}\(", text, re.M), f"{block.place}: no test {what}"
        return ""
    if how == "not":
        return ""
    assert not how, f'{block.place}: run="{how}" is not known'
    match block.language:
        case "python":
            return run_python(world.here(block.text), block.place, names)
        case "bash":
            return run_commands(block.text, world)
        case "text":
            assert same_output(block.text, printed), f"{block.place}: it prints\n{printed}"
        case "yaml":
            read_yaml(block.text, block.attributes.get("for", ""), world)
        case "proto":
            compile_proto(block.text, world)
        case language:
            pytest.fail(f"{block.place}: there is no way to run {language}")
    return ""


def same_output(wanted: str, printed: str) -> bool:
    """Whether a block shows what was printed, with `...` for anything."""
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(wanted, printed, options)


def test_what_is_not_run_is_known() -> None:
    found = {
        page: [reason for block in blocks_of(page) if (reason := _reason(block))] for page in PAGES
    }
    assert {page: reasons for page, reasons in found.items() if reasons} == {
        page: [reason] for page, reason in NOT_RUN.items()
    }


def _reason(block: Block) -> str:
    how, _, reason = block.attributes.get("run", "").partition(": ")
    return reason if how == "not" else ""


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 25
    assert {block.language for block in EXAMPLES} == {"python"}


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.place)
def test_the_example_of(block: Block, world: World) -> None:
    with world.inside(), FeatureClient(world.address) as client:
        names = names_for(client)
        text, expected = compared(world.here(block.text))
        text = inside_a_client(text, world.address)
        if "to_torch" in text and find_spec("torch") is None:
            with pytest.raises(MissingPackage):
                run_python(text, block.place, names)
            return
        run_python(text, block.place, names)
    if expected is not None:
        assert names["result"] == ast.literal_eval(expected)


def test_the_metrics_of_a_gateway_are_described(world: World) -> None:
    described = {metric.name: metric for metric in described_metrics(CHECKOUT / "server")}
    text = world.figures()
    families = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    ours = {name: kind for name, kind in families.items() if name.startswith("hotfeast_")}
    assert len(ours) > 20
    for name, kind in ours.items():
        assert described[name].kind == kind
        told = re.search(rf"^# HELP {name} (.*)$", text, re.M)
        assert told is not None
    for name, labels in re.findall(r"^(hotfeast_\w+)\{(.*)\} ", text, re.M):
        metric = described.get(name) or described[re.sub(r"_(bucket|sum|count)$", "", name)]
        assert set(re.findall(r'(\w+)="', labels)) - {"le"} == set(metric.labels), name
