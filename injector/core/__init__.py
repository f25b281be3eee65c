"""What becomes of an object that is admitted, as pure functions over plain values."""
