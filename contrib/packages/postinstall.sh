#!/bin/sh
# dpkg and rpm run this after an installation or an upgrade.
set -e
systemd-sysusers weir.conf
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# Restarts a running mirror. After a first installation, the operator starts it once it is configured.
	systemctl try-restart weir.service
fi
