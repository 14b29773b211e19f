"""What the report says of a run."""

from engine.results.evaluation import Page


def testWarningsStandBesideTheGreyValuesAndOtherLinesDoNot():
    page = Page(
        "scan.nrrd", "CPU", {}, {"remarks": ["No data: 3 voxels"], "warning": "unlike", "noDataCount": 3}
    )
    noted = page.note(["Expected Dice: about 0.93", "Warning: a Dice of about 0.40"])
    assert noted.greys["remarks"] == ["No data: 3 voxels", "Warning: a Dice of about 0.40"]
    assert (noted.greys["warning"], noted.greys["noDataCount"]) == ("unlike", 3)
    assert page.greys["remarks"] == ["No data: 3 voxels"]


def testARunWithoutComparisonIsNotedAsWell():
    assert Page("scan.nrrd", "CPU", {}).note([]).greys == {"remarks": []}
