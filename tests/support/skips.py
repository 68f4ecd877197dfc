"""What a test may need that a machine lacks, and what brings it; counted in the last line of a run.

A plugin of pytest, which conftest.py names. Every skip gives one of these reasons: "needs WHAT: WHAT BRINGS IT".
"""

import re
from collections import Counter

import pytest

CHROMIUM = "needs Chromium: `make browser` on Debian as root, elsewhere the system's package"
PROMETHEUS = "needs Prometheus: `make prometheus` on Debian as root, elsewhere its programs on PATH"
GPU = "needs a GPU: a machine with an NVIDIA GPU and torch's CUDA build"
NO_GPU = "needs a machine without GPU: `CUDA_VISIBLE_DEVICES= make test`"
TRITON = "needs Triton: `make develop` on Linux x86-64"
NAMESPACES = "needs network namespaces and mounts: Linux as root, in Docker with --privileged"
MEMORY_LIMIT = "needs a control group with a limit of memory: Linux as root, in Docker with --privileged"
PROC = "needs /proc: Linux"
NOT_ROOT = "needs a user who may not write everywhere: any other than root"
BFLOAT16 = "needs products of bfloat16: a processor that has them; on others the test would take half an hour"


def closing_line(reports):
    """How many tests were skipped for what, and what brings it, from pytest's reports of them."""
    reasons = Counter(reason(report) for report in reports)
    if not reasons:
        return "nothing skipped"
    return f"{reasons.total()} skipped: " + "; ".join(told(text, count) for text, count in reasons.most_common())


def reason(report):
    *_, text = report.longrepr if isinstance(report.longrepr, tuple) else (str(report.longrepr),)
    return text.removeprefix("Skipped: ")


def told(text, count):
    """'17 need Chromium (make browser ...)'; a reason that is not of this file as it is."""
    if not (parts := re.fullmatch(r"needs (.+?): (.+)", text)):
        return f"{count}: {text}"
    return f"{count} {'needs' if count == 1 else 'need'} {parts[1]} ({parts[2]})"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """Around all others, so after pytest's own closing line. Workers of xdist have no reporter and say nothing."""
    result = yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and not session.config.option.collectonly:
        reporter.write_line(closing_line(reporter.stats.get("skipped", [])))
    return result
