"""The agent on every node: a privileged keeper without a network, a link without privileges."""

__version__ = "0.1.0"
