"""Each analysis as a section of a report: title, picture, numbers, findings."""
