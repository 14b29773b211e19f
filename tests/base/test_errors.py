"""The error that a user can correct."""

from engine.base.errors import PipelineError


def testErrorIsOneLineWithFileRuleValuesAndRemedy():
    error = PipelineError("a rule\nin two lines", file="a.nrrd", expected=3, received=2, remedy="do this")
    assert str(error) == "a.nrrd: a rule in two lines (expected 3, received 2); do this"
    assert str(PipelineError("a rule")) == "a rule" and isinstance(error, ValueError)
