"""One model on several devices: rank 0 plans, and tells the others what to carry out.

Every rank has its share of the weights and of each block's KV heads, so blocks have the same
offsets everywhere and one list of orders serves all. Rank 0 alone runs the core. Before it starts
the moves of a plan or a step it sends them over a gloo group; the others carry out the same with
the same code. Sums between ranks come out bit for bit the same on all of them, so each knows the
tokens of a step by itself, and none are sent.

A copy has landed for the core once it has on rank 0; the others hear of it before anything that
relies on it, and wait for theirs.
"""
