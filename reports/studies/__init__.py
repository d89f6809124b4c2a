"""Studies of one question each, over several methods or comparisons; part of a report that has the cells for them."""
