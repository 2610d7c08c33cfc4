"""Own solvers of the equations behind PDEBench, one family to a file, and generators of files in its layouts."""
