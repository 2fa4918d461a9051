"""The shape of RotaSched's results: `python -m experiments.rotasched`.

Time to first token and time between tokens against the request rate, for the three models of arXiv
2601.20309 on one GH200; what a slower link does; what each part of the system adds. Its figures
are not compared with: the lengths, the targets and the speed of the device are ours.
"""
