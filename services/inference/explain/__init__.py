"""The job that explains a kept prediction: finds it, asks the same revision's model again, and says what mattered.

Owns nothing: it reads the payload log and the model's files, and hands over a report. Here is torch, for gradients; no
service imports this.
"""
