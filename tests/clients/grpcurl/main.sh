#!/usr/bin/env bash
# The scenario of ../scenario.md by grpcurl, which learns the API by reflection.
set -euo pipefail
. "$(dirname "$0")/../scenario.sh"

root=$LONGSHORE_CREDENTIALS/root.crt
me=(-cert "$LONGSHORE_CREDENTIALS/client.crt" -key "$LONGSHORE_CREDENTIALS/client.key")

call() { exec_call "${me[@]}" "$@"; }
call_without_certificate() { exec_call -connect-timeout 5 "$@"; }
exec_call() { # OPTION... METHOD REQUEST
  local count=$#
  grpcurl -cacert "$root" "${@:1:count-2}" -format-error -d "${!count}" "$LONGSHORE_SERVER" "longshore.v1.${*:count-1:1}"
}

refusal() { # {"code": 5, "message": …, "details": [{"@type": …}]}
  jq '["OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
       "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED"] as $codes
    | {code: $codes[.code], details: [.details[] | .type = (.["@type"] | sub(".*\\."; ""))]}'
}

scenario
