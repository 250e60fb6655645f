"""Structured output: forms of answers, and which tokens may come next. Knows no device and no request."""
