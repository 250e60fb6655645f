"""The model in pure Linen modules. Knows shapes, neither devices nor files."""
