"""Studies that anybody can run again, the benchmark, and what in the documents is made of both.

Studies of many runs share `studykit`: `options.py` and `seeded_study.py` (their commands),
`run_cache.py` (runs, each made once), `measures.py` (numbers over the seeds), `record.py` and
`reading.py` (what they write and read back), `pictures.py`. Their pages share `tables/parts.py`.

They run in a checkout, where their data and what was recorded lie; a wheel has none of them.
"""
