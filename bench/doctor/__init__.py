"""What on this machine would make the numbers wrong: one finding per check."""
