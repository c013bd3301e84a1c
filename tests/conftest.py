"""Under CI a skipped test is a failure, unless what it needs is the market data that a clone does not have."""

import os

import pytest

MAY_BE_MISSING = "../shared"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip into a failure when CI is set and the reason is not that ../shared is missing."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if MAY_BE_MISSING not in reason:
            report.outcome, report.longrepr = "failed", f"{reason}: under CI nothing else may be skipped"
    return report
