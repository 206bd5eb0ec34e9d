"""Who runs where and when: jobs, their attempts and the nodes of the pool. The only owner of capacity.

Emits `job` events. Knows nothing of training or serving, and never touches the bytes that jobs work on.
"""
