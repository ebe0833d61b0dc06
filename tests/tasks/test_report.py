from pathlib import Path

from prefect import flow
from small_campaign import SmallCampaign

from surveyor.tasks.report import ReportsSoFar, report


def test_the_page_is_left_to_a_newer_report_that_waits(tmp_path: Path) -> None:
    directory, so_far = SmallCampaign(tmp_path).run(), ReportsSoFar()
    so_far.newest = 3

    @flow
    def write(number: int) -> None:
        report(directory, number, None, so_far)

    write(2)
    assert directory.generation(2).figures.exists()
    assert not directory.report.exists()
    write(3)
    assert directory.report.exists()
