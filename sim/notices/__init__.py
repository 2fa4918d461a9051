"""What a user is told of a simulation apart from its files: lines on standard error that a command
says `before` anything runs and `after`, and the findings behind some of them.
"""
