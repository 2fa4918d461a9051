"""What happened when: an event log as steps and phases with start and end, and as a trace file."""
