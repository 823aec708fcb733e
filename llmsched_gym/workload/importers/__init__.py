"""What other tools record, as jobs: one module a format, ``formats`` knows them all.

Each reads records (objects of JSON, rows of CSV) and gives jobs, and a
:class:`~llmsched_gym.workload.importers.tally.Tally` of what it left out, mended and guessed.
``docs/bring_your_jobs.md`` says what is read of each.
"""
