"""What the README and the pages of docs/ show is run, word by word."""

import doctest
import json
import re
from pathlib import Path

import numpy as np
import pytest

import metric_jax as mj
from configs import base
from experiments import sweep
from metric_jax.training import folders

README = Path(__file__).parent.parent / "README.md"
PAGES = [
    README,
    *(
        README.parent / "docs" / name
        for name in (
            *("choosing_a_loss.md", "own_loss.md", "evaluation.md", "augmentation.md", "data.md"),
            "models.md",
        )
    ),
]
DOCS = README.parent / "docs"
INDEX = DOCS / "README.md"
WRITTEN = [
    README,
    README.parent / "CONTRIBUTING.md",
    README.parent / "CHANGELOG.md",
    *sorted(DOCS.glob("*.md")),
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
    configs = [
        folder / "configs" / f"{name}.py" for name in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    ]
    assert len(named) > 10
    assert len(configs) == 5
    assert [path for path in (*named, *configs) if not path.exists()] == []


def test_the_table_of_results_says_what_was_measured():
    rows = re.findall(r"^\| `(\w+)` \|.*?\|.*?\| (.*) \|.*\|$", README.read_text(), re.MULTILINE)
    assert len(rows) == 5
    for name, told in rows:
        found = json.loads((README.parent / "results" / f"{name}.json").read_text())["results"]
        measured = [
            f"{found[prefix + key]:.3f}" for key in ("map_at_r", "recall@1") for prefix in ("", "baseline_")
        ]
        assert told.split(" | ") == measured, name


def test_partitions_are_compared_as_they_were_measured():
    rows = json.loads((README.parent / "results" / "faces_partitions.json").read_text())["rows"]
    network, lda = (next(row for row in rows if row["name"] == name) for name in ("network", "LDA"))
    told = " ".join(README.read_text().split())
    for key, sentence in (
        ("eer", "the EER is less by {}"),
        ("map_at_r", "MAP@R more by {}"),
        ("relative_eer", "that EER is less than LDA's by {}"),
    ):
        values = np.subtract(network[key]["values"], lda[key]["values"])
        difference = f"{abs(values.mean()):.3f} ± {sweep.half_interval(values.tolist()):.3f}"
        assert sentence.format(difference) in told


def prose(page):
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(page):
    """The links of a page that lead to a file of this project: ``[(file, heading or "")]``."""
    found = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", prose(page))
    return [(page.parent / file if file else page, heading) for file, heading in found if "://" not in file]


def headings(page):
    """What a link to a heading of a page calls it."""
    titles = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(README.parent)))
def test_every_link_leads_to_a_file_and_its_heading(page):
    for file, heading in links(page):
        assert file.exists(), file
        assert not heading or heading in headings(file), f"{file} has no heading {heading}"


def test_a_heading_is_called_as_github_calls_it(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# `a_b`, and C\n```\n# no\n[x](y)\n```\n[1](z.md#h) [2](#i) [3](https://a.b/c#d)\n")
    assert headings(page) == {"a_b-and-c"}
    assert links(page) == [(tmp_path / "z.md", "h"), (page, "i")]


def test_the_index_lists_every_page_and_the_readme_the_index():
    listed = {file.name for file, _ in links(INDEX)}
    assert {page.name for page in (*DOCS.glob("*.md"), *DOCS.glob("*.html"))} - {INDEX.name} == listed
    assert (INDEX, "") in links(README)


def test_choosing_a_loss_names_losses_miners_and_keys_that_there_are():
    text = (DOCS / "choosing_a_loss.md").read_text()
    losses = set(re.findall(r"\b\w+_loss\b", text)) - {"choosing_a_loss", "own_loss"}
    assert len(losses) > 25
    assert [name for name in losses if not hasattr(mj, name)] == []
    assert [name for name in re.findall(r"\bmining\.(\w+)", text) if not hasattr(mj.mining, name)] == []
    keys = set(re.findall(r"`((?:batch|loss|memory|model|optimizer)\.\w+)", text))
    assert len(keys) > 8
    assert keys <= set(folders.flatten(base.get_config().to_dict()))
