"""GPU kernels: attention, head, lookup, symmetric products."""
