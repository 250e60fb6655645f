"""What a run writes and shows while it trains: metrics, TensorBoard, the terminal, profiles."""
