"""What fastmaml costs beside what else one could use: run `fastmaml bench`, or `python -m bench`.

Every contender computes the same meta-gradient of the same workload in a process of its own.
Its gradient is compared with the float64 plain loop before it is timed, and the contenders are
timed in turn, round by round, so that whatever slows the machine slows them all. Ratios are taken
within a round; how far they spread over the rounds is in the report.
"""
