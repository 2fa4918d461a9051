"""The reuse model of the SLO-aware memory manager: when will a cached prefix be asked for again?"""
