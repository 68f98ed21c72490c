"""Compiled, vectorized and threaded kernels for CPUs.

Nothing is imported here: numba is loaded when :mod:`.bdlru` or :mod:`.hlru` is first used.
"""
