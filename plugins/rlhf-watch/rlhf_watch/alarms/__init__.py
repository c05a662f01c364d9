"""Alarms with a known false-alarm rate: statistics that grow with departures, thresholds fitted on clean runs."""
