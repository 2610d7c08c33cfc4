"""Own solvers of the equations behind PDEBench, a family to a file, and generators of files in its layouts."""
