"""The mutants of tests/mutants.py can still be made: each one's text stands where it says."""

import mutants
import pytest


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.name)
def test_a_mutant_can_be_made(mutant):
    mutants.find(mutant)
    assert mutant.old != mutant.new
    for word in mutant.tests.split():
        if word.startswith("tests/"):
            assert (mutants.ROOT / word).is_file()
