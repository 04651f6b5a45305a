"""The data plane, the control API and the command line root. Never imports torch, judges or learner."""

__version__ = "0.1.0"
