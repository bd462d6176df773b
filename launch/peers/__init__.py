"""One DP-SGD step in this library and in others, each timed in a process of its own."""
