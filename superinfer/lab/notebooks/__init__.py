"""What `superinfer.lab` offers to notebooks: results found again, as frames and as pictures."""
