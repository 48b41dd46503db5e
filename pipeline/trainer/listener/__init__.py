"""Listeners: whoever wants to hear how a run goes, in a program or in a service."""
