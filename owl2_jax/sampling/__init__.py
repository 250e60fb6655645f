"""How a token is chosen: settings, and the sampler of the step program. Knows neither pages nor requests."""
