#!/bin/sh
# Runs after a removal or an upgrade. The store, /var/lib/weir, and its user stay.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
