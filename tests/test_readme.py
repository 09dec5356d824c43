"""What the README and the pages of docs/ show is run, word by word."""

import doctest
import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
PAGES = [
    README,
    *(
        README.parent / "docs" / name
        for name in ("own_loss.md", "evaluation.md", "augmentation.md", "data.md", "models.md")
    ),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_print_what_it_says(page):
    found = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 5
    assert found.failed == 0


def test_what_the_readme_names_is_there():
    text = README.read_text()
    house = text.partition("## The house")[2].partition("```\n")[2].partition("```")[0]
    folder = README.parent
    named = [
        (folder / "metric_jax" if line.startswith(" ") else folder) / line.split()[0]
        for line in house.splitlines()
    ]
    linked = [folder / link for link in re.findall(r"\]\(([^)]+)\)", text)]
    configs = [
        folder / "configs" / f"{name}.py" for name in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    ]
    assert len(named) > 10
    assert len(configs) == 4
    assert [path for path in (*named, *linked, *configs) if not path.exists()] == []
