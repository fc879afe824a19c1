"""Questions and readings over any screen."""
