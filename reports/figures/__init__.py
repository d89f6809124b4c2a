"""Draw the figures of a report without a display."""
