"""Upgrades without anybody: when, and which node of the cluster."""
