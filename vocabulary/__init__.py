"""Names and values that every part shares: annotations, the Redirect, labels, the version."""
