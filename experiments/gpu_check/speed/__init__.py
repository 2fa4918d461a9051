"""How fast each kernel is, and others' beside ours."""
