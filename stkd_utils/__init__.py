"""Helpers of the executable book on knowledge distillation with a stochastic temperature."""

__version__ = "0.1.0"
