"""Labels by people: label projects over dataset versions, tasks that are leased, and reviews.

Working state, kept in SQL alone, as runs are: what is accepted becomes a dataset version, which is in the bucket. Rules
of what a label is and how several agree are `aios.labels`.
"""
