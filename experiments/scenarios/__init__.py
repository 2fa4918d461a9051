"""Whether the `rotating` scheduler is worth having: `python -m experiments.scenarios`.

Every setting compares all arms at one load, the largest chat rate at which a named reference keeps
78 % of the chat requests within their targets, and on a sweep around it. The table at the top of
the result says for each claim whether the numbers bear it out.
"""
