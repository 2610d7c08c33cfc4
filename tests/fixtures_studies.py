"""What tests of studies share."""

from dataclasses import asdict


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
