"""The images of the system that a node keeps, and which of them it boots.

`facts` reads what there is, `plan` and `verdict` decide, `apply` acts. Elemental installs snapshots
and GRUB boots them; what is here repairs what both leave after a power cut or a bad image.
"""
