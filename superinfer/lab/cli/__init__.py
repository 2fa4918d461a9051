"""What the command lines of the simulator and of the executor have in common."""
