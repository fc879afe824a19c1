"""The live screen: one run as it goes on."""
