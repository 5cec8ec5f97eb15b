"""The CPU of emulated machines.

Without cx16 the guest does not use cmpxchg16b, at which QEMU 7.2 corrupts flags under TCG. Without
svm and vmx udev does not load KVM, which could run nothing there. Without svm but with la57, that
QEMU corrupts what the guest reads in /proc.
"""

CPU = "max,-cx16,-svm,-vmx,-la57"
