"""The table of mutants fits the sources. That each mutant is killed takes minutes: `python tests/mutants.py`."""

import ast

import pytest
from mutants import MUTANTS, ROOT

IDS = {
    *(f"N{i}" for i in range(1, 15)),
    *(f"P{i}" for i in range(1, 9)),
    *(f"T{i}" for i in (1, 2, 3, 4, 5, 6, 8)),
}


def test_every_property_has_a_mutant():
    assert {mutant.id for mutant in MUTANTS} == IDS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.id}: {mutant.mistake}")
def test_mutant_fits_the_sources(mutant, request):
    source = (ROOT / mutant.file).read_text()
    assert source.count(mutant.removed) == 1
    assert mutant.added != mutant.removed
    ast.parse(source.replace(mutant.removed, mutant.added))
    path, test = mutant.test.split("::")
    assert test.startswith(f"test_{mutant.id}_")
    assert f"def {test.partition('[')[0]}(" in (ROOT / path).read_text()
    there = [item.nodeid for item in request.session.items if item.nodeid.startswith(f"{path}::")]
    assert not there or request.config.option.keyword or any(name.startswith(mutant.test) for name in there)
