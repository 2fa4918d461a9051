"""What time it is for the driver, and whose seconds count on a shared CPU."""
