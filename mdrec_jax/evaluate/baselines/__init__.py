"""What is reached without a network, and the co-occurrence bonus that can stand beside one."""
