"""What deployments do in production: predictions that are kept, explanations of them, how they drift, whether they were
right, and alerts.

Owns the log of what was kept, explanations, drift reports, feedback and alerts. Emits `explanation`, `drift_report` and
`alert`. Never opens kept
predictions itself: what needs their content is a job on the pool.
"""
