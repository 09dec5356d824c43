"""Writes docs/api: a page for every public part of metric_jax, from its docstrings and signatures.

    python docs/api_pages.py

`make docs` does it, with pdoc, which the extra `docs` brings. The first page lists every public name with its first
sentence; each name stands in full on the page of the file that defines it, below the idea of that file. What pdoc warns
of is an error here, and so is a name without a docstring, or a link that leads nowhere.
"""

import importlib
import inspect
import pathlib
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from typing import Any

import metric_jax as mj

FOLDER = pathlib.Path(__file__).parent / "api"

# A long formula is broken into lines rather than cut off.
STYLE = "<style>.docstring pre { white-space: pre-wrap; }</style>"

# What has a page beside the files that define what `mj` itself has.
PARTS = (
    *("mining", "memory", "grad_cache", "whitening", "recipes", "diagnostics"),
    *("evaluation", "evaluation.intervals", "data", "data.augment", "data.samplers", "data.shards"),
    *("models", "training", "reports"),
)


def pages() -> dict[str, dict[str, Any]]:
    """What stands on which page: ``{module: {public name: what it is}}``."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in vars(mj).items():
        if _is_ours(name, value) and not name.startswith("_"):
            found.setdefault(value.__module__, {})[name] = value
    for part in PARTS:
        module = importlib.import_module(f"metric_jax.{part}")
        is_package = hasattr(module, "__path__")
        found[module.__name__] = {
            name: value
            for name, value in vars(module).items()
            if _is_ours(name, value)
            and (is_package or getattr(value, "__module__", module.__name__) == module.__name__)
        }
    return found


def _is_ours(name: str, value: Any) -> bool:
    """Whether a name of a module is public, and neither another module nor imported from a library."""
    is_ours = getattr(value, "__module__", "metric_jax").partition(".")[0] == "metric_jax"
    return is_ours and not inspect.ismodule(value) and not name.startswith("_")


def with_list_of_papers(docstring: str) -> str:
    """The docstring with an item of a list for every paper: each ends with its link."""
    head, title, papers = docstring.partition("\nReferences:\n")
    items = re.sub(r"(https?://\S+) ", r"\1\n    - ", " ".join(papers.split()))
    return f"{head}{title}    - {items}" if title else docstring


def with_links(docstring: str, links: dict[str, str]) -> str:
    """The docstring with a link wherever a name of another page stands between single backticks."""

    def linked(name: re.Match[str]) -> str:
        return f"[{name[0]}]({links[name[1]]})" if name[1] in links else name[0]

    return re.sub(r"(?<!`)`([\w.]+)`(?!`)", linked, docstring)


def overview(found: dict[str, dict[str, Any]], sentences: dict[str, dict[str, str]]) -> str:
    """The first page: every name, with a link and its first sentence, in the order of `pages`."""
    lines = [*(inspect.getdoc(mj) or "").splitlines(), ""]
    for module, names in found.items():
        title = (inspect.getdoc(sys.modules[module]) or "").partition("\n")[0].rstrip(".")
        shown = module.removeprefix("metric_jax.") if module.removeprefix("metric_jax.") in PARTS else ""
        topic, _, idea = title.partition(": ")
        lines += [f"## {topic}", "", f"[`{module}`]({_file(module)}){idea and ': '}{idea}", ""]
        lines += ["| | |", "| --- | --- |"]
        for name in names:
            called = ".".join(filter(None, ["mj", shown, name]))
            sentence = sentences[module][name].replace("|", r"\|")
            lines.append(f"| [`{called}`]({_file(module)}#{name}) | {sentence} |")
        lines.append("")
    return "\n".join(lines)


def without_libraries(signature: str) -> str:
    """The HTML of a signature with ``Float[Array, ...]`` in it as it is written, without where these are from."""
    library = r'<span class="n">(?:jaxtyping|jax|jaxlib|_jax)</span><span class="o">\.</span>'
    return re.sub(library, "", signature)


def _file(module: str) -> str:
    return f"{module.replace('.', '/')}.html"


def _without_scripts(text: str) -> str:
    return re.sub(r"<script\b.*?</script>", "", text, flags=re.DOTALL)


def dead_links(folder: pathlib.Path) -> list[str]:
    """Links within a folder of pages that lead to no file, or to no place of it."""
    texts = {page.resolve(): _without_scripts(page.read_text()) for page in folder.rglob("*.html")}
    places = {page: {"", *re.findall(r'\bid="([^"]+)"', text)} for page, text in texts.items()}
    dead = []
    for page, text in texts.items():
        for file, place in set(re.findall(r'\bhref="([^"#:]*)#?([^":]*)"', text)):
            target = (page.parent / file).resolve() if file else page
            if place not in places.get(target, ()):
                dead.append(f"{page.relative_to(folder.resolve())} links to {file}#{place}")
    return sorted(dead)


def _arranged(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The modules of `pages` and the packages above them, as pdoc has them, by name."""
    from pdoc import doc

    listed = {module: list(names) for module, names in found.items()}
    for module in found:
        parts = module.split(".")
        for depth in range(1, len(parts)):
            listed.setdefault(".".join(parts[:depth]), []).append(parts[depth])
    for module, names in listed.items():
        sys.modules[module].__all__ = list(dict.fromkeys(names))  # what pdoc takes for public
    modules = {name: doc.Module(sys.modules[name]) for name in sorted(listed)}
    for module in modules.values():
        for member in module.members.values():
            if isinstance(member, doc.Function):
                member.decorators = []  # per_anchor and its like have done their work
                if hasattr(member.wrapped, "__signature__"):
                    member.obj = member.wrapped  # which has the arguments that they added, and tells of them
                    member.docstring = inspect.getdoc(member.wrapped)
    return modules


def _to_markdown(found: dict[str, dict[str, Any]]) -> Callable[..., str]:
    """The filter of pdoc's templates that makes Markdown of a docstring, as Markdown has it."""
    import jinja2
    from pdoc import render_helpers

    homes: dict[str, str] = {}
    for module, names in found.items():
        for name in names:
            homes.setdefault(name, module)

    @jinja2.pass_context
    def to_markdown(context: jinja2.runtime.Context, docstring: str) -> str:
        here = context["module"].modulename
        elsewhere = {
            name: f"{render_helpers.relative_link(here, home)}#{name}"
            for name, home in homes.items()
            if name not in found.get(here, ())
        }
        text = with_links(with_list_of_papers(docstring.replace("::\n", ":\n")), elsewhere)
        return render_helpers.to_markdown_with_context(context, text)

    return to_markdown


def write(folder: pathlib.Path) -> list[str]:
    """Writes the pages, and returns what is wrong with them."""
    import markupsafe
    from pdoc import render, render_helpers

    def format_signature(*args: Any, **options: Any) -> markupsafe.Markup:
        return markupsafe.Markup(without_libraries(render_helpers.format_signature(*args, **options)))

    found = pages()
    modules = _arranged(found)
    sentences = {
        module: {name: modules[module].members[name].docstring.partition("\n")[0] for name in names}
        for module, names in found.items()
    }
    modules["metric_jax"].docstring = overview(found, sentences)
    render.configure(docformat="google", footer_text="metric_jax")
    render.env.filters["to_markdown"] = _to_markdown(found)
    render.env.filters["format_signature"] = format_signature

    shutil.rmtree(folder, ignore_errors=True)
    for name, module in modules.items():
        page = folder / _file(name)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(render.html_module(module, modules).replace("</head>", f"{STYLE}</head>", 1))
    (folder / "index.html").write_text(render.html_index(modules))
    (folder / "search.js").write_text(render.search_index(modules))
    undocumented = [
        f"{module}.{name} has no docstring"
        for module, names in found.items()
        for name, value in names.items()
        if callable(value) and not sentences[module][name]
    ]
    return undocumented + dead_links(folder)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        faults = write(FOLDER)
    if faults:
        sys.exit("\n".join(faults))
    print(f"{FOLDER / 'index.html'}: {sum(map(len, pages().values()))} names")
