# The scenario of scenario.md in a shell, for clients that take and give JSON. It is sourced by grpcurl/main.sh and
# buf/main.sh, which say what their programs are called with:
#
#   call METHOD REQUEST        prints what it answers, one JSON object after another, and an error on standard error
#   refusal < ERROR            prints what that error is: {"code": "NOT_FOUND", "details": [{"type": "ErrorInfo", …}]}
#   call_without_certificate METHOD REQUEST

create() { # NAME ARCHIVE TARGETS [STARTUP]
  local request
  request=$(jq -n --arg name "$1" --arg archive "$2" --argjson targets "$3" --argjson startup "${4:-{\"settle\": \"0.1s\"\}}" \
    '{spec: {name: $name, image: {archive: $archive}, startup: $startup}, targets: $targets, rollout: {maxParallel: 1}}')
  job=$(call JobService/CreateJob "$request")
  jq -r '.job | "created \(.spec.name): \(.state), \([.counts[]] | add) tasks"' <<<"$job"
  job_id=$(jq -r '.job.jobId' <<<"$job")
}

by_id() { jq -n --arg id "$job_id" '{jobId: $id}'; }

watch() {
  call JobService/WatchJob "$(by_id)" | jq -rs '
    "watched \(.[-1].job.spec.name): \(.[-1].job.state)",
    ([.[].tasks // [] | .[]] | group_by(.nodeName)[] | .[-1]
      | "  \(.nodeName): \(.state), attempt \(.attempt)" + if .failure then ", \(.failure.reason)" else "" end)'
}

break_off_after() { # NODE
  local succeeded=".tasks // [] | any(.nodeName == \"$1\" and .state == \"TASK_STATE_SUCCEEDED\")" line
  # The client is killed while it waits for more: it writes into a pipe of its own, not into one that the shell waits for.
  coproc WATCH { exec > >(exec jq --unbuffered "$succeeded"); call JobService/WatchJob "$(by_id)"; }
  local watching=$WATCH_PID
  while read -r line <&"${WATCH[0]}" && [ "$line" != true ]; do :; done
  kill "$watching"
  wait "$watching" || true
  echo "broke off $(jq -r .job.spec.name <<<"$job")"
}

changed() { # WORD METHOD
  call "JobService/$2" "$(by_id)" | jq -r --arg word "$1" '.job | "\($word) \(.spec.name): \(.state)"'
}

list_jobs() { # FILTER
  local token="" page
  while
    page=$(call JobService/ListJobs "$(jq -n --arg f "$1" --arg t "$token" '{filter: $f, pageSize: 1, pageToken: $t}')")
    jq -r '.jobs // [] | .[].spec.name' <<<"$page"
    token=$(jq -r '.nextPageToken // ""' <<<"$page")
    [ -n "$token" ]
  do :; done
}

refused() { # METHOD REQUEST
  local error
  if error=$(call "JobService/$1" "$2" 2>&1 >/dev/null); then echo "$1 was not refused" >&2; exit 1; fi
  refusal <<<"$error" | jq -r '
    .code as $code
    | [.details[] | if .type == "ErrorInfo" then .reason
        elif .type == "PreconditionFailure" then [.violations[].subject] | join(" ")
        elif .type == "BadRequest" then [.fieldViolations[].field] | join(" ")
        elif .type == "ResourceInfo" then .resourceName
        else empty end]
    | "refused: \([$code] + . | join(", "))"'
}

scenario() {
  create till /images/till.tar '{"selector": "role=till"}'
  watch

  create flaky '/images/flaky.tar?exit=7&runs=1' '{"nodeNames": ["shop-1"]}' '{"settle": "1s", "maxStarts": 1}'
  watch
  changed retried RetryJob
  watch

  create late /images/till.tar '{"nodeNames": ["shop-1", "depot-1"]}'
  break_off_after shop-1
  changed stopped StopJob
  watch
  changed resumed ResumeJob
  watch

  echo "listed jobs:" $(list_jobs 'state = SUCCEEDED AND spec.name != till')
  call NodeService/ListNodes '{"filter": "labels.role = till AND connected = true"}' \
    | jq -r '"listed nodes: \([.nodes[].name] | join(" "))"'
  call JobService/ListTasks "$(by_id | jq '.filter = "node_name = depot-1"')" \
    | jq -r '"listed tasks: \([.tasks[].nodeName] | join(" "))"'

  refused StopJob "$(by_id)"
  refused CreateJob '{
    "spec": {"name": "Till", "image": {"archive": "till.tar"}},
    "targets": {"nodeNames": ["shop-1"]},
    "timeout": "0.1s"
  }'
  refused GetJob '{"jobId": "00000000000000000000000000"}'
  refused RetryJob "$(by_id | jq '.etag = "1"')"
  call_without_certificate JobService/ListJobs '{}' >/dev/null 2>&1 || echo "without a certificate: refused"
}
