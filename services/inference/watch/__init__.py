"""What deployments do in production: predictions that are kept, and explanations of them.

Owns the log of what was kept, and explanations. Emits `explanation`. Never opens kept
predictions itself: what needs their content is a job on the pool.
"""
