"""What deployments do in production: predictions that are kept, explanations of them, drift, feedback and alerts.

Owns the log of what was kept, reports and alert policies, and what feedback was given. Emits `explanation` and
`drift_report`. Never opens kept predictions itself: what needs their content is a job on the pool.
"""
