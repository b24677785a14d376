#!/bin/sh
# Installs the real tools that the tests run against (Debian and Ubuntu). As a plain user it prints what to run as root.
set -eu

packages="dcmtk orthanc orthanc-dicomweb dicom3tools pixelmed-apps default-jre-headless chromium postgresql"

if ! command -v apt-get >/dev/null 2>&1; then
    echo "No apt-get here. Install by your system's own means: $packages" >&2
    exit 1
fi

if [ "$(id -u)" -ne 0 ]; then
    echo "Only root can install packages. Tests that miss a tool are skipped and say so. To install them, run:"
    echo "    sudo sh $0"
    exit 0
fi

apt-get update
# shellcheck disable=SC2086 # a list of package names, to be split
DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $packages

# Debian starts Orthanc and PostgreSQL as services on their usual ports; the tests start their own elsewhere.
if [ -d /run/systemd/system ]; then
    systemctl disable --now orthanc postgresql
fi
