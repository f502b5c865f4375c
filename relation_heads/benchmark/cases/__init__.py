"""One file per operator: `CASES`, name to a function from the device to a `Case`."""
