"""Chaos: real processes lock on a real server while both are broken; then the history is judged.

    _plan.py       a seed -> the faults and when; what each worker does, step by step
    _worker.py     a process: threads or tasks that carry steps out and log what they see
    _conductor.py  starts server and workers, breaks them as planned, ends them
    _history.py    the logs -> leases, and when each was valid by its own words
    _checker.py    the history -> what was wrong, and what the run has met
    _broken.py     the mistakes that the checker must find

Law: workers know nothing of the checker, and the checker nothing of fastlock: it reads
what was logged and compares it with what the documentation promises.
"""
