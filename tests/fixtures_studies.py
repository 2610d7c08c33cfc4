"""What tests of studies share."""

import importlib
import sys
from contextlib import contextmanager
from dataclasses import asdict

import pytest


@contextmanager
def modules_of(studies, folders, names):
    """Gives modules of some folders by name, and forgets them afterwards: other studies have the same names."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in folders:
            patch.syspath_prepend(studies / folder)
        for name in names:
            sys.modules.pop(name, None)
        yield importlib.import_module
        for name in names:
            sys.modules.pop(name, None)


class Inline:
    """As `Crew` of the studies, in this process.

    Args:
        work: from a job to rows.
        common: columns of every row.
    """

    def __init__(self, work, common):
        self.work, self.common, self.made = work, common, []

    def run(self, jobs, results):
        for job in jobs:
            if not results.has(job):
                self.made.append(job)
                results.add([found | asdict(job) | self.common for found in self.work(job)])
