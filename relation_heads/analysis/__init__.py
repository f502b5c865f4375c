"""What models cost, counted without weights or data, beside what was published."""
