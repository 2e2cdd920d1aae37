"""PyFlink's names: code written for `pyflink` runs after `from pyflink.` has become `from pillion.pyflink.`.

What functions need is here: the DataStream functions, their state, timers, windows, side outputs and types, and the
scalar functions of the Table API. A small environment runs whole scripts over collections in this process, for trying
functions out; what belongs to a cluster is not here.
"""
