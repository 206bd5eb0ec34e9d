"""Models that run where no platform is: signed, by a runner of one file, or by an agent that fetches what is approved.

The agent serves what it has, whether the platform can be reached or not; it speaks to it over a leaf node of the event
bus that it runs beside itself.
"""
