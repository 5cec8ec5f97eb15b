#!/bin/sh
# /init of the small guest: up to a guest agent that answers, in seconds.
#
# What a test can rely on, through the config drive:
#   meta_data.json "hostname"   becomes the host name
#   user_data                   if it begins with #!, runs as a script before the agent starts; its
#                               output goes to the console. /sbin/shutdown and /etc/acpi/power are
#                               what a stop request runs: replace them to refuse it.
# Then one line on ttyS0: small guest ready: host=NAME firmware=bios|uefi secure_boot=yes|no
# Port 80 answers with the host name, once the network gave an address.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LANG=C

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /run /tmp /mnt/config
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
exec </dev/console >/dev/console 2>&1

while read -r module; do
    insmod "$module" 2>/dev/null
done </lib/modules.load

# Prints the device of the config drive, which appears when its bus has been scanned.
find_config_drive() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        findfs LABEL=config-2 2>/dev/null && return
        [ -e /sys/class/scsi_disk ] && [ -z "$(ls /sys/block | grep -E '^(sr|vd)')" ] && return
        sleep 0.1
    done
}

host=small
drive=$(find_config_drive)
if [ -n "$drive" ] && mount -t iso9660 -o ro "$drive" /mnt/config; then
    latest=/mnt/config/openstack/latest
    named=$(sed -n 's/.*"hostname": *"\([^"]*\)".*/\1/p' "$latest/meta_data.json" 2>/dev/null)
    host=${named:-$host}
fi
hostname "$host"

firmware=bios secure_boot=no
if [ -d /sys/firmware/efi ]; then
    firmware=uefi
    mount -t efivarfs efivarfs /sys/firmware/efi/efivars
    # Four bytes of attributes, then the value (kernel: filesystems/efivarfs.rst).
    variable=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
    [ "$(tail -c 1 $variable 2>/dev/null | od -An -tu1 | tr -d ' ')" = 1 ] && secure_boot=yes
fi

ip link set lo up
if ip link set eth0 up 2>/dev/null; then
    udhcpc -b -S -i eth0 -s /etc/udhcpc >/dev/null 2>&1 &
    echo "$host" >/run/index.html
    httpd -p 80 -h /run
fi
acpid -c /etc/acpi -l /run/acpid.log -p /run/acpid.pid

if [ "$(head -c 2 /mnt/config/openstack/latest/user_data 2>/dev/null)" = '#!' ]; then
    cp /mnt/config/openstack/latest/user_data /run/user_data
    chmod +x /run/user_data
    /run/user_data
fi
echo "small guest ready: host=$host firmware=$firmware secure_boot=$secure_boot"

for port in /sys/class/virtio-ports/*; do
    if [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ]; then
        agent=/dev/${port##*/}
    fi
done
while :; do
    if [ -n "$agent" ]; then
        qemu-ga -m virtio-serial -p "$agent" -t /run
    fi
    sleep 1
done
