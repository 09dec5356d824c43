"""What docs/api_pages.py puts on the pages of the API, which `make docs` then checks by itself, with pdoc."""

import inspect

import pytest
from test_house import exported

import metric_jax as mj
from docs import api_pages

PAGES = api_pages.pages()


def test_every_public_name_stands_on_one_page():
    names = [name for module, page in PAGES.items() if not is_part(module) for name in page]
    modules = {name for name in vars(mj) if inspect.ismodule(getattr(mj, name))}
    promised = {name for ((name, _),) in exported()}
    assert sorted(names) == sorted(promised - modules)
    assert promised & modules <= set(api_pages.PARTS)
    assert set(mj._LOADED_WHEN_USED) <= set(api_pages.PARTS)


def is_part(module):
    return module.removeprefix("metric_jax.") in api_pages.PARTS


@pytest.mark.parametrize(
    ("page", "there", "elsewhere"),
    [
        ("losses.softmax", {"supcon_loss", "ntxent_loss"}, {"against", "jax", "cosine_similarity"}),
        ("distances", {"Distance", "euclidean", "normalize"}, {"center", "Any", "dataclasses"}),
        ("evaluation", {"retrieval", "clustering", "Roc"}, {"intervals", "scores"}),
        ("evaluation.intervals", {"bootstrap"}, {"np"}),
        ("data.samplers", {"HierarchicalSampler"}, {"pk", "balanced"}),
        ("models", {"MODELS", "options", "ResNet"}, {"Any", "Callable", "functools"}),
        ("diagnostics", {"summary", "COLLAPSED_SPREAD"}, {"euclidean", "compare", "Batch"}),
    ],
)
def test_what_stands_on_a_page(page, there, elsewhere):
    found = set(PAGES[f"metric_jax.{page}"])
    assert there <= found
    assert not elsewhere & found


def test_a_paper_is_an_item_of_a_list():
    docstring = "Title.\n\nReferences:\n    A, B (2001), One.\n    https://a.b/c\n    C (2002), A long\n    title. https://d.e"
    assert api_pages.with_list_of_papers(docstring) == (
        "Title.\n\nReferences:\n    - A, B (2001), One. https://a.b/c\n    - C (2002), A long title. https://d.e"
    )
    assert api_pages.with_list_of_papers("Title.") == "Title."


def test_a_name_of_another_page_is_a_link():
    links = {"Terms": "reductions.html#Terms"}
    docstring = "A `Terms`, not ``Terms``, and no `Batch`."
    assert api_pages.with_links(docstring, links) == (
        "A [`Terms`](reductions.html#Terms), not ``Terms``, and no `Batch`."
    )


def test_the_first_page_has_a_link_and_a_sentence_for_every_name():
    found = {module: PAGES[f"metric_jax.{module}"] for module in ("reductions", "mining")}
    found = {f"metric_jax.{module}": page for module, page in found.items()}
    sentences = {module: {name: f"|{name}|" for name in page} for module, page in found.items()}
    text = api_pages.overview(found, sentences)
    assert r"| [`mj.terms`](metric_jax/reductions.html#terms) | \|terms\| |" in text
    assert r"| [`mj.mining.batch_hard`](metric_jax/mining.html#batch_hard) | \|batch_hard\| |" in text


def test_a_type_is_shown_without_its_library():
    dot = '<span class="o">.</span>'
    array = f'<span class="n">jaxlib</span>{dot}<span class="n">_jax</span>{dot}<span class="n">Array</span>'
    ours = f'<span class="n">metric_jax</span>{dot}<span class="n">Pairs</span>'
    assert api_pages.without_libraries(f"[{array}, {ours}]") == f'[<span class="n">Array</span>, {ours}]'


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here"><a href="sub/b.html#x"><a href="https://c.d#e"><a href="sub/b.html">'
        '<script>`<a href="${url}">`</script>'
    )
    (tmp_path / "sub" / "b.html").write_text(
        '<a href="../a.html#here"><a href="../a.html#gone"><a href="c.html">'
    )
    assert api_pages.dead_links(tmp_path) == [
        "a.html links to sub/b.html#x",
        "sub/b.html links to ../a.html#gone",
        "sub/b.html links to c.html#",
    ]
