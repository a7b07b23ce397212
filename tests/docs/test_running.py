"""What blocks say of how to run them is understood, and what cannot be run is no success."""

from pathlib import Path

import pytest
from doc_blocks import page_blocks
from doc_commands import split_commands
from doc_files import compile_proto, read_yaml
from doc_python import run_python
from doc_world import World


@pytest.fixture
def world(checkout: Path, tmp_path: Path) -> World:
    """A world without a gateway, which nothing here asks."""
    return World(checkout, tmp_path, tmp_path, "127.0.0.1:1", tmp_path, "")


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text)
    return path


def test_blocks_of_a_page(tmp_path: Path) -> None:
    text = """# A

```yaml for="aliases" run="not: why"
a: 1
```

- in a list

  ```bash
  b
  ```
"""
    first, second = page_blocks(page(tmp_path, text), "page.md")
    assert (first.place, first.language, first.text) == ("page.md:3", "yaml", "a: 1\n")
    assert first.attributes == {"for": "aliases", "run": "not: why"}
    assert (second.place, second.language, second.text) == ("page.md:9", "bash", "b\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("```\ncode\n```\n", "needs a fence and a language"),
        ("words\n\n    code\n", "needs a fence and a language"),
        ("```bash run=now\ncode\n```\n", "is no attribute"),
    ],
)
def test_blocks_that_cannot_be_told(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        page_blocks(page(tmp_path, text), "page.md")


def test_commands_of_a_block() -> None:
    text = """# words
PYTHONPATH=. .venv/bin/python a.py   # more words
hotfeast traffic list; hotfeast push \\
    clicks --rows "a b.csv" && make X=1
"""
    assert list(split_commands(text)) == [
        [".venv/bin/python", "a.py"],
        ["hotfeast", "traffic", "list"],
        ["hotfeast", "push", "clicks", "--rows", "a b.csv"],
        ["make", "X=1"],
    ]


def test_python_prints_keeps_names_and_awaits() -> None:
    names: dict[str, object] = {}
    assert run_python("import asyncio\na = 1\nprint(a)\n", "page.md:1", names) == "1\n"
    assert run_python("print(await asyncio.sleep(0, a + 1))\n", "page.md:5", names) == "2\n"
    with pytest.raises(ZeroDivisionError):
        run_python("a / 0\n", "page.md:9", names)


def test_files_that_are_not_valid(world: World) -> None:
    with pytest.raises(ValueError, match="there are"):
        read_yaml("a: 1", "nothing", world)
    with pytest.raises(ValueError, match="add up to 1, not to 100"):
        read_yaml("a: {b: 1}", "aliases", world)
    with pytest.raises(AssertionError):
        compile_proto("message Nothing", world)
