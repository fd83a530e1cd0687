#!/usr/bin/env bash
# The scenario of ../scenario.md by `buf curl`, which learns the API by reflection. It gives the details of errors as they
# are on the wire; RPC_IMAGE, an image of google/rpc made by `buf build`, says what is in them.
set -euo pipefail
. "$(dirname "$0")/../scenario.sh"

root=$LONGSHORE_CREDENTIALS/root.crt
me=(--cert "$LONGSHORE_CREDENTIALS/client.crt" --key "$LONGSHORE_CREDENTIALS/client.key")

call() { # METHOD REQUEST
  buf curl --protocol grpc --cacert "$root" "${me[@]}" -d "$2" "https://$LONGSHORE_SERVER/longshore.v1.$1"
}
call_without_certificate() {
  buf curl --protocol grpc --cacert "$root" -d "$2" "https://$LONGSHORE_SERVER/longshore.v1.$1"
}

refusal() { # {"code": "not_found", "message": …, "details": [{"type": "google.rpc.ErrorInfo", "value": base64}]}
  local error type value details=""
  error=$(cat)
  while read -r type value; do
    # The base64 comes without the padding that `base64` asks for.
    while ((${#value} % 4)); do value+==; done
    details+=$(base64 -d <<<"$value" | buf convert "$RPC_IMAGE" --type "$type" --from -#format=binpb --to -#format=json \
      | jq --arg type "${type##*.}" '. + {type: $type}')
  done < <(jq -r '.details[] | "\(.type) \(.value)"' <<<"$error")
  jq -n --argjson error "$error" --argjson details "$(jq -s . <<<"$details")" \
    '{code: $error.code | ascii_upcase, details: $details}'
}

scenario
