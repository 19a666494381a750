"""What is reached without a network, and the counts that can stand beside one."""
