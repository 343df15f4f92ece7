"""`plait.Pool`: measures what functions do, and runs each in the model that fits."""
