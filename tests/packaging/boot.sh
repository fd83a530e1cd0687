#!/usr/bin/env bash
# Boots systemd on a copy of this machine that has the packages of the given directory, and lives an edge node's life there:
# set up, deploy the given image, stop, crash, upgrade, reboot. What is written goes to memory, and ends with the mount and
# PID namespace that this runs in. Called by tests/packaging, inside `unshare --mount --pid`.
set -euo pipefail
packages=$(realpath "$1") image=$(realpath "$2")

say() { echo "-- $*"; }
fail() { echo "FAILED: $*" >&2; journal >&2 || true; exit 1; }

copy=$(mktemp -d)
mount -t tmpfs -o mode=755 none "$copy"
# The data is not on the overlay: images are unpacked to layers, which cannot lie on another overlay.
mkdir "$copy"/{upper,work,root,data}
mount -t overlay -o "lowerdir=/,upperdir=$copy/upper,workdir=$copy/work" none "$copy/root"
root=$copy/root
# Nothing but the packages' own services is started, and these without a policy of this machine's that forbids it.
find "$root/etc/systemd/system" -mindepth 1 -delete
rm -f "$root/usr/sbin/policy-rc.d"
rm -f "$root/etc/machine-id"
touch "$root/etc/machine-id"
mkdir -p "$root/packages" "$root/var/lib/longshore"
cp "$packages"/*.deb "$root/packages"
cp "$image" "$root/packages/image.tar"

init="" nspawn=""
boot() {
  systemd-nspawn --quiet --register=no --keep-unit --private-network --capability=all --machine=edge --console=pipe \
    --directory="$root" --bind="$copy/data:/var/lib/longshore" --boot >"$copy/console" 2>&1 </dev/null &
  nspawn=$!
  local is_up=""
  for _ in $(seq 600); do
    init=$(pgrep --parent "$nspawn" | head -n 1) && [ -n "$init" ] && inside systemctl is-system-running 2>/dev/null |
      grep -qE 'running|degraded' && is_up=yes && break
    kill -0 "$nspawn" 2>/dev/null || { cat "$copy/console" >&2; fail "systemd did not come up"; }
    sleep 0.1
  done
  [ -n "$is_up" ] || { cat "$copy/console" >&2; fail "systemd is not done with its start"; }
  # A container sees the cgroups of version 1 read-only, which a machine does not.
  inside bash -c 'grep " cgroup .*ro," /proc/self/mounts | while read -r _ mount _; do mount -o remount,bind,rw "$mount"; done'
}
halt() {
  inside systemctl poweroff
  wait "$nspawn" || true
  init=""
}
inside() { nsenter --target "$init" --mount --uts --ipc --net --pid --cgroup --root env --chdir=/ "$@"; }
shell() { inside -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive bash -euo pipefail -c "$1"; }
journal() { [ -z "$init" ] || inside journalctl --no-pager --lines=80 --unit='longshore*'; }
eventually() { # WHAT COMMAND
  for _ in $(seq 300); do
    shell "$2" >/dev/null 2>&1 && return
    sleep 0.1
  done
  shell "$2" >&2 || true
  fail "$1"
}

credentials='export LONGSHORE_SERVER=127.0.0.1:7440 LONGSHORE_CREDENTIALS=/var/lib/longshore/server/admin;'
serves='exec 3<>/dev/tcp/127.0.0.1/8099; printf "GET / HTTP/1.0\r\n\r\n" >&3; grep -q "^process 1" <&3'
connected="$credentials longshore node list --output json | grep -q '\"connected\": true'"
main_pid() { inside systemctl show --property MainPID --value "$1"; }
app_pid() { shell "pgrep --full '^/app serve'"; }

say install
boot
shell 'dpkg --install /packages/*.deb'
shell 'systemctl enable --quiet longshore-server longshore-agent; systemctl start longshore-server longshore-agent'
# Neither was set up, so neither runs, and neither has failed.
[ "$(shell 'systemctl is-active longshore-server longshore-agent || true' | tr '\n' ' ')" = "inactive inactive " ] ||
  fail "a service runs that nobody had set up"

say set up
shell 'runuser -u longshore -- longshore-server init --san 127.0.0.1 && systemctl start longshore-server'
eventually "the server does not answer" "$credentials longshore node list"
shell "$credentials token=\$(longshore node token --output json | sed -n 's/.*\"token\": \"\\(.*\\)\".*/\\1/p')
  LONGSHORE_TOKEN=\$token longshore-agent enroll --server 127.0.0.1:7441 --name edge && systemctl start longshore-agent"
eventually "the node is not connected" "$connected"

say deploy
cat >"$root/packages/job.yaml" <<'JOB'
spec:
  name: web
  image: { archive: /packages/image.tar }
  network: { ports: [ { containerPort: 8080, hostPort: 8099 } ] }
targets: { nodes: [ edge ] }
JOB
shell "$credentials longshore apply -f /packages/job.yaml"
shell "$serves" || fail "the app does not answer"
app=$(app_pid)
same_app() { [ "$(app_pid)" = "$app" ] || fail "$1 ended the app"; shell "$serves" || fail "$1 silenced the app"; }

say stop and start
shell 'systemctl stop longshore-agent'
same_app "stopping the agent"
shell 'systemctl start longshore-agent'
eventually "the node does not come back" "$connected"
same_app "starting the agent"

say crash
agent=$(main_pid longshore-agent)
shell "kill -KILL $agent"
eventually "systemd does not start the agent again" \
  "pid=\$(systemctl show --property MainPID --value longshore-agent); [ \$pid -ne 0 ] && [ \$pid -ne $agent ]"
eventually "the node does not come back" "$connected"
same_app "a crash of the agent"

say upgrade
agent=$(main_pid longshore-agent) server=$(main_pid longshore-server)
shell 'dpkg --install /packages/*.deb'
[ "$(main_pid longshore-agent)" != "$agent" ] || fail "the upgrade left the old agent running"
[ "$(main_pid longshore-server)" != "$server" ] || fail "the upgrade left the old server running"
eventually "the node does not come back" "$connected"
same_app "an upgrade"

say reload
server=$(main_pid longshore-server)
shell 'systemctl reload longshore-server'
[ "$(main_pid longshore-server)" = "$server" ] || fail "a reload started another server"

say reboot
halt
boot
eventually "the app does not come back" "$serves"
eventually "the node does not come back" "$connected"

say remove
shell "$credentials longshore app remove \$(longshore app list --output json | sed -n 's/.*\"appName\": \"\\(.*\\)\".*/\\1/p')"
eventually "the app is not removed" '! pgrep --full "^/app serve"'
halt
echo "all is well"
