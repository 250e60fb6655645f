"""What a run writes and shows while it trains: metrics, TensorBoard, the terminal, profiles.

Knows what steps measured; takes no step and decides nothing.
"""
