"""What the executor reaches on a device, held against what the device allows and against others."""
