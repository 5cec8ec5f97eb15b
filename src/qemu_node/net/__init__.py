"""The guest's side of the network: its addresses. Bridges and VLANs will live here too."""
