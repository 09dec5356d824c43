"""What the README shows is run, word by word."""

import doctest
from pathlib import Path


def test_the_examples_of_the_readme_print_what_it_says():
    readme = Path(__file__).parent.parent / "README.md"
    found = doctest.testfile(str(readme), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 5
    assert found.failed == 0
