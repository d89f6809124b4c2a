"""Files of a run folder; this package is their only writer, and the reports read them."""
