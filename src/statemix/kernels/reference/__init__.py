"""The recurrences as plain PyTorch loops, on any device and in any dtype: the truth."""
