"""Files of a run folder: written here alone, read here and by the reports."""
