#!/bin/sh
# Runs before a removal or an upgrade: dpkg says "remove" or "upgrade", and rpm how many versions
# are left, 0 or 1.
set -e
case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now weir.service
	fi
	;;
esac
