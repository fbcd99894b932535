"""Migration of many files: what to do, the journal that survives a kill, the workers, and the report.

    job        what one job is asked to do
    places     directories and URLs: what is there, and how an output gets there all at once
    plan       which files are sources, and what each becomes
    work       one file from source to certified output: what a worker runs
    journal    what was done, in a database that a killed job leaves whole
    engine     the workers: processes of this machine, a Dask or a Ray cluster
    run        the whole job
    report     one HTML page of what became of every file
    reasons    which reasons of different files are the same
    recipes    jobs.toml
"""

from __future__ import annotations

from lstmbridge.jobs.job import Job
from lstmbridge.jobs.run import Summary, run
from lstmbridge.jobs.work import VERDICTS, Record

__all__ = ["VERDICTS", "Job", "Record", "Summary", "run"]
