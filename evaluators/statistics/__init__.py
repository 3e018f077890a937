"""Statistics for gates and reports: always-valid tests and bounds, distances, alarms.

Only methods that are valid at every look may gate a rollout (`betting`, `confidence_sequence`,
`two_sample`, `detector`); distances and histograms are for reports.
"""
