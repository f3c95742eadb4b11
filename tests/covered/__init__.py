"""What the tests reach of helpers/, in every process that they start."""
