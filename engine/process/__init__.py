"""The engine as a process of its own: its queue loop, how it is started and ended, its log and its code."""
