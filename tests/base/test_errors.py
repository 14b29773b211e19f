"""The error that a user can correct."""

import pickle

import pytest

from engine.base.errors import PipelineError


def testErrorIsOneLineWithFileRuleValuesAndRemedy():
    error = PipelineError("a rule\nin two lines", file="a.nrrd", expected=3, received=2, remedy="do this")
    assert str(error) == "a.nrrd: a rule in two lines (expected 3, received 2); do this"
    assert str(PipelineError("a rule")) == "a rule" and isinstance(error, ValueError)


@pytest.mark.parametrize("name", ["a.nrrd", "two\nlines.nrrd", "\udcff.nrrd", "%s (1); 2.nrrd"])
def testAnErrorOfAnotherProcessIsTheSameLine(name):
    error = PipelineError("a rule", file=name, expected=(1, 2), received=[3], remedy="do this")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is PipelineError and str(again) == str(error) and "do this" in str(again)
