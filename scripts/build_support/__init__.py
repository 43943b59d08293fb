"""What setup.py needs to compile gdext._C: its tools, and the ninja file that drives them."""
