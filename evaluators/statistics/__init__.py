"""What numbers prove, and how surely: always-valid tests and bounds, distances, alarms.

Only what is valid at every look may gate a rollout (`betting`, `confidence_sequence`,
`two_sample`, `detector`); distances and histograms are for reports.
"""
