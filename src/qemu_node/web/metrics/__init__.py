"""Figures for Prometheus: `/metrics`.

`table` says which metrics there are, `collect` makes them of what is known of VMs and node
(`nodefigures`, `netdev`), `scrape` does so for whoever asks, `metricsroutes` answers him, and
`scrapers` says who needs no login.
"""
