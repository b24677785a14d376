#!/bin/sh
# No container engine is needed: hadolint reads the Dockerfile, the compose file is held against its schema.
set -eu
bin=${1:-.venv/bin}
"$bin/hadolint" Dockerfile
"$bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec compose.yaml
