"""What `latency_apply.py` runs inside a kernel that has all it takes."""
