#!/bin/sh
# Runs behind an installation or an upgrade, by dpkg and by rpm.
set -e
systemd-sysusers weir.conf
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# A mirror that runs is replaced. The first one waits for its configuration.
	systemctl try-restart weir.service
fi
