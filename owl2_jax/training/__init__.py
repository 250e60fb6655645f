"""Parameter groups, optimiser, losses, one pure step, the loop. Knows no benchmark and no command."""
